import { type Collection, type Entry, type Folder, type Key, type Where, images, thumbnailOf } from "../api";
import { usePaged } from "../paged";
import { Filters } from "../parts/filters";
import { Gallery } from "../parts/gallery";
import { Picture } from "../parts/picture";
import { count, many, together } from "../text";
import { Problem } from "../parts/problem";

interface Props {
  about: Collection;
  folders: readonly Folder[];
  keys: readonly Key[];
  filters: Where[];
  setFilters: (filters: Where[]) => void;
  onUse: (entry: Entry, weight: number) => void;
}

/** All pictures, or those that fulfil the filters; each begins a search. */
export function Browse({ about, folders, keys, filters, setFilters, onUse }: Props) {
  const where = together(filters);
  const { items, ended, error, more, again } = usePaged(JSON.stringify(where), async (after) => {
    const page = await images(after, 200, where);
    return { items: page.images, next: page.next };
  });
  const total = ended ? items.length : where === null ? about.images : undefined;
  const said = total === undefined ? `${count(items.length)} and more` : many(total, "picture");
  return (
    <main class="browse" id="main">
      <div class="summary">
        <h1>{said}</h1>
        <p role="status" class="hidden">
          {said}
        </p>
      </div>
      <Filters folders={folders} keys={keys} filters={filters} onFilters={setFilters} />
      <Problem text={error} again={again} />
      {ended && items.length === 0 && !error && (
        <p class="empty">
          {where
            ? "No picture fulfils the filters. Take one away."
            : "There are no pictures yet: resight index PHOTOS --into this collection."}
        </p>
      )}
      <Gallery
        label="Pictures of the collection"
        items={items}
        {...(total !== undefined && { total })}
        keyOf={(entry) => entry.id}
        caption={24}
        onEnd={more}
        render={(entry) => (
          <button
            type="button"
            class="card"
            aria-label={`Search with ${entry.name}`}
            title={`${entry.folder}/${entry.name}`}
            onClick={() => onUse(entry, 1)}
          >
            <span class="tile">
              <Picture src={thumbnailOf(entry.id, 320)} alt="" lazy />
            </span>
            <span class="name">{entry.name}</span>
          </button>
        )}
      />
    </main>
  );
}
