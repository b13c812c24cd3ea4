import { useCallback, useEffect, useRef, useState } from "preact/hooks";

import { go, goSideways, read, toBrowse, toSearch, usePlace } from "./address";
import { type Collection, type Entry, type Folder, type Key, search as getSearch, startSearch, upload } from "./api";
import { type Draft, EMPTY, type Shown, draftOf, requestOf, same, shownEntry } from "./draft";
import { howFar, isRunning, useJobs } from "./jobs";
import { messageOf } from "./text";
import { Theme } from "./theme";
import { Remove } from "./parts/filters";
import { Browse } from "./views/browse";
import { About } from "./views/collection";
import { Duplicates } from "./views/duplicates";
import { Jobs } from "./views/jobs";
import { SearchView } from "./views/search";

const VIEWS = [
  ["search", "Search", "#/"],
  ["browse", "Browse", "#/browse"],
  ["duplicates", "Duplicates", "#/duplicates"],
  ["jobs", "Jobs", "#/jobs"],
  ["collection", "Collection", "#/collection"],
] as const;

/** The whole page: where it is, what is to be searched for, and what is dropped or pasted on it. */
export function Page({
  about,
  folders,
  keys,
  reload,
}: {
  about: Collection;
  folders: Folder[];
  keys: Key[];
  reload: () => void;
}) {
  const place = usePlace();
  const [draft, setDraft] = useState<Draft>(EMPTY);
  const [busy, setBusy] = useState(false);
  const [turn, setTurn] = useState(0);
  const [problem, setProblem] = useState<string | null>(null);
  const [dragged, setDragged] = useState(false);
  const [jobs, refreshJobs] = useJobs(about.writable, reload);
  const id = place.view === "search" ? place.search : null;
  const known = useRef<string | null>(null); // the search that `draft` was made for or from
  const current = useRef(draft);
  current.current = draft;

  const run = useCallback(async (wanted: Draft) => {
    setDraft(wanted);
    setBusy(true);
    setProblem(null);
    try {
      const { search } = await startSearch(requestOf(wanted));
      known.current = search;
      const here = read(location.hash);
      const least = here.view === "search" ? here.least : null;
      if (location.hash === toSearch(search, least)) setTurn((old) => old + 1);
      else go(toSearch(search, least));
    } catch (error) {
      setProblem(messageOf(error));
    } finally {
      setBusy(false);
    }
  }, []);

  const take = useCallback(
    async (files: readonly File[], add: boolean) => {
      const pictures = files.filter((file) => file.type === "" || file.type.startsWith("image/"));
      if (!pictures.length) {
        if (files.length) setProblem("That is no picture. Drop a photo: JPEG, PNG, WebP, TIFF …");
        return;
      }
      setBusy(true);
      setProblem(null);
      try {
        const made: Shown[] = [];
        for (const file of pictures.slice(0, 16)) {
          const { query, width, height } = await upload(file);
          made.push({ image: query, name: file.name || "pasted picture", width, height, box: null, weight: 1 });
        }
        const before = current.current;
        await run({ ...before, examples: add ? [...before.examples, ...made] : made });
      } catch (error) {
        setProblem(messageOf(error));
        setBusy(false);
      }
    },
    [run],
  );

  const use = (entry: Entry, weight: number) => {
    const before =
      place.view === "search"
        ? draft
        : { ...EMPTY, top: draft.top, adapter: draft.adapter, filters: place.view === "browse" ? place.filters : [] };
    const rest = before.examples.filter((example) => example.image !== entry.id);
    void run({ ...before, examples: [...rest, shownEntry(entry, weight)] });
  };

  // A permanent link, or a step in the browser's history: the draft follows the search.
  useEffect(() => {
    if (place.view !== "search") return;
    if (id === null) {
      if (known.current !== null) setDraft(EMPTY);
      known.current = null;
    } else if (known.current !== id) {
      known.current = id;
      getSearch(id)
        .then((found) => draftOf(found.request))
        .then((made) => {
          if (known.current === id && !same(requestOf(made), requestOf(current.current))) setDraft(made);
        })
        .catch((error) => setProblem(messageOf(error)));
    }
  }, [place.view, id]);

  useEffect(() => {
    const files = (data: DataTransfer | null) => [...(data?.files ?? [])];
    const paste = (event: ClipboardEvent) => {
      const found = files(event.clipboardData);
      if (found.length) {
        event.preventDefault();
        void take(found, false);
      }
    };
    const over = (event: DragEvent) => {
      if (event.dataTransfer?.types.includes("Files")) {
        event.preventDefault();
        setDragged(true);
      }
    };
    const leave = (event: DragEvent) => event.relatedTarget === null && setDragged(false);
    const drop = (event: DragEvent) => {
      event.preventDefault();
      setDragged(false);
      void take(files(event.dataTransfer), false);
    };
    addEventListener("paste", paste);
    addEventListener("dragover", over);
    addEventListener("dragleave", leave);
    addEventListener("drop", drop);
    return () => {
      removeEventListener("paste", paste);
      removeEventListener("dragover", over);
      removeEventListener("dragleave", leave);
      removeEventListener("drop", drop);
    };
  }, [take]);

  const shared = { about, folders, keys };
  const working = jobs?.find(isRunning);
  const title = VIEWS.find(([view]) => view === place.view)![1];
  useEffect(() => {
    document.title = `${title} – ${about.name} – resight`;
  }, [title, about.name]);
  return (
    <div class={dragged ? "page dragged" : "page"}>
      <a
        class="skip"
        href="#main"
        onClick={(event) => {
          event.preventDefault();
          const main = document.getElementById("main");
          main?.setAttribute("tabindex", "-1");
          main?.focus();
        }}
      >
        Skip to the content
      </a>
      <header class="bar">
        <a class="brand" href="#/" title={about.path}>
          resight <span>{about.name}</span>
        </a>
        <nav aria-label="Views">
          {VIEWS.map(([view, label, address]) => (
            <a key={view} href={address} {...(place.view === view && { "aria-current": "page" })}>
              {label}
            </a>
          ))}
        </nav>
        {working && (
          <a class="working" href="#/jobs">
            {howFar(working) || "working"}
          </a>
        )}
        <Theme />
      </header>
      {problem && (
        <div class="problem floating" role="alert">
          <span>{problem}</span>
          <Remove what="this message" onClick={() => setProblem(null)} />
        </div>
      )}
      {!about.ready && about.why && <p class="problem">{about.why}</p>}
      {place.view === "search" ? (
        <SearchView
          {...shared}
          draft={draft}
          setDraft={setDraft}
          busy={busy}
          search={id}
          turn={turn}
          image={place.image}
          least={place.least}
          onRun={(wanted) => void run(wanted)}
          onFiles={(files, add) => void take(files, add)}
          onUse={use}
        />
      ) : place.view === "browse" ? (
        <Browse
          {...shared}
          filters={place.filters}
          setFilters={(filters) => goSideways(toBrowse(filters))}
          onUse={use}
        />
      ) : place.view === "duplicates" ? (
        <Duplicates about={about} onUse={use} />
      ) : place.view === "jobs" ? (
        <Jobs about={about} jobs={jobs} onChange={refreshJobs} />
      ) : (
        <About about={about} />
      )}
    </div>
  );
}
