import { useEffect, useState } from "preact/hooks";

import { type Entry, images, thumbnailOf } from "../api";
import { many } from "../text";
import { Gallery } from "../parts/gallery";
import { Drop } from "../parts/icons";
import { Picture } from "../parts/picture";
import type { SearchProps } from "./search";

/** Nothing is asked for yet: a place for a photo, and some of the collection's to start from. */
export function Start({ about, busy, onFiles, onUse }: SearchProps) {
  const [some, setSome] = useState<Entry[]>([]);
  useEffect(() => {
    images(undefined, 24, null).then(
      (page) => setSome(page.images),
      () => setSome([]),
    );
  }, []);
  return (
    <main class="start" id="main">
      <h1>Find the same thing again</h1>
      <Chooser busy={busy} onFiles={(files) => onFiles(files, false)} />
      {some.length > 0 && (
        <section aria-labelledby="or">
          <h2 id="or">or start from one of the {many(about.images, "picture")} here</h2>
          <Gallery
            label="Some pictures of the collection"
            items={some}
            keyOf={(entry) => entry.id}
            caption={0}
            render={(entry) => (
              <button
                type="button"
                class="tile"
                aria-label={`Search with ${entry.name}`}
                onClick={() => onUse(entry, 1)}
              >
                <Picture src={thumbnailOf(entry.id, 320)} alt="" lazy />
              </button>
            )}
          />
          <p>
            <a href="#/browse">Browse all pictures</a>
          </p>
        </section>
      )}
    </main>
  );
}

function Chooser({ busy, onFiles }: { busy: boolean; onFiles: (files: readonly File[]) => void }) {
  return (
    <label class="drop">
      <Drop />
      <b>{busy ? "Reading the picture …" : "Drop a photo here"}</b>
      <span>
        paste one, or <u>choose a file</u>
      </span>
      <input
        type="file"
        accept="image/*"
        class="hidden"
        aria-label="Choose a photo to search with"
        onChange={(event) => {
          onFiles([...event.currentTarget.files!]);
          event.currentTarget.value = "";
        }}
      />
    </label>
  );
}
