import { useMemo, useState } from "preact/hooks";

import { go, goSideways, toSearch } from "../address";
import type { Collection, Entry, Folder, Key, Result } from "../api";
import { type Draft, type Shown, requestOf, same } from "../draft";
import { type Followed, useSearch } from "../follow";
import { adapterText, count } from "../text";
import { Boxed } from "../parts/boxed";
import { Cut } from "../parts/cut";
import { Examples } from "../parts/examples";
import { Filters } from "../parts/filters";
import { Found } from "../parts/found";
import { Find } from "../parts/icons";
import { MatchView } from "../parts/match";
import { Summary } from "../parts/summary";
import { Start } from "./start";

export interface SearchProps {
  about: Collection;
  folders: readonly Folder[];
  keys: readonly Key[];
  draft: Draft;
  setDraft: (draft: Draft) => void;
  busy: boolean;
  search: string | null;
  turn: number;
  image: number | null;
  least: number | null;
  onRun: (draft: Draft) => void;
  onFiles: (files: readonly File[], add: boolean) => void;
  onUse: (entry: Entry, weight: number) => void;
}

export function SearchView(props: SearchProps) {
  return props.draft.examples.length === 0 && props.search === null ? <Start {...props} /> : <Searching {...props} />;
}

function Searching(props: SearchProps) {
  const { about, folders, keys, draft, setDraft, busy, search: id, image, least, onRun, onFiles, onUse } = props;
  const followed = useSearch(id, props.turn);
  const { search, results } = useMemo(() => judged(followed, least), [followed, least]);
  const [active, setActive] = useState(0);
  const chosen = Math.min(active, draft.examples.length - 1);
  const example = draft.examples[chosen];
  const running =
    search === null ? id !== null && !followed.error : search.state === "waiting" || search.state === "running";
  const ended = followed.error !== null || search?.state === "failed" || search?.state === "cancelled";
  const fresh = search !== null && !ended && same(requestOf(draft), search.request);
  const calibrated = search?.calibrated ?? about.threshold !== null;
  const change = (index: number, made: Partial<Shown>) =>
    setDraft({ ...draft, examples: draft.examples.map((each, i) => (i === index ? { ...each, ...made } : each)) });
  const drop = (index: number) => setDraft({ ...draft, examples: draft.examples.filter((_, i) => i !== index) });
  const use = (result: Result, weight: number) => onUse(entryOf(result), weight);
  return (
    <main class="searching" id="main">
      <section class="query" aria-label="What to find">
        {example && (
          <Boxed
            key={`${example.image}`}
            image={example.image}
            name={example.name}
            size={example}
            box={example.box}
            onBox={(box) => change(chosen, { box })}
          />
        )}
        <Examples
          examples={draft.examples}
          chosen={chosen}
          onChoose={setActive}
          onChange={change}
          onRemove={drop}
          onAdd={(files) => onFiles(files, true)}
        />
        <details class="options" open={draft.filters.length > 0 || draft.expression !== null || draft.adapter !== null}>
          <summary>Where to look{draft.filters.length > 0 && ` (${draft.filters.length})`}</summary>
          <Filters
            folders={folders}
            keys={keys}
            filters={draft.filters}
            onFilters={(filters) => setDraft({ ...draft, filters })}
            expression={draft.expression}
            onNoExpression={() => setDraft({ ...draft, expression: null })}
          />
          <label>
            Results
            <select
              value={draft.top}
              onChange={(event) => setDraft({ ...draft, top: Number(event.currentTarget.value) })}
            >
              {[...new Set([20, 100, 500, draft.top])].map((top) => (
                <option key={top} value={top}>
                  at most {count(top)}
                </option>
              ))}
            </select>
          </label>
          {about.adapters.length > 1 && (
            <label>
              Compare for
              <select
                value={draft.adapter ?? about.adapter}
                onChange={({ currentTarget: { value } }) =>
                  setDraft({ ...draft, adapter: value === about.adapter ? null : value })
                }
              >
                {about.adapters.map((each) => (
                  <option key={each} value={each}>
                    {adapterText(each)}
                  </option>
                ))}
              </select>
            </label>
          )}
          <label class="tick">
            <input
              type="checkbox"
              checked={draft.exact}
              onChange={(event) => setDraft({ ...draft, exact: event.currentTarget.checked })}
            />
            Compare with every picture (slower)
          </label>
        </details>
        <button
          type="button"
          class="main"
          disabled={busy || draft.examples.length === 0 || fresh}
          onClick={() => onRun(draft)}
        >
          <Find />{" "}
          {busy
            ? "Starting …"
            : fresh
              ? running
                ? "Searching …"
                : "Searched"
              : example?.box
                ? "Search for this part"
                : "Search"}
        </button>
      </section>
      <section class="results" aria-label="Results" aria-busy={running}>
        <Summary
          about={about}
          id={id}
          followed={{ ...followed, search, results }}
          running={running}
          calibrated={calibrated}
          least={least}
        />
        {search?.state === "done" && results.length > 0 && (
          <Cut
            results={results}
            calibrated={calibrated}
            least={least}
            usual={followed.search!.threshold}
            onLeast={(chosen) => goSideways(toSearch(search.search, chosen))}
          />
        )}
        {search && <Found {...{ search, results, running, calibrated, least, onUse: use }} />}
      </section>
      {search && image !== null && draft.examples.length > 0 && (
        <MatchView
          search={search}
          results={results}
          image={image}
          examples={draft.examples}
          calibrated={calibrated}
          onOpen={(other) => goSideways(toSearch(search.search, least, other))}
          onClose={() => go(toSearch(search.search, least))}
          onUse={use}
        />
      )}
    </main>
  );
}

/** A search that is done, where a match has at least another score than the recipe says. */
function judged({ search, results }: Followed, least: number | null): Pick<Followed, "search" | "results"> {
  if (search?.state !== "done" || least === null) return { search, results };
  const made = results.map((result) => ({ ...result, accepted: result.score >= Math.fround(least) }));
  return {
    search: { ...search, threshold: least, accepted: made.filter((one) => one.accepted).length },
    results: made,
  };
}

const entryOf = (result: Result): Entry => ({
  id: result.image,
  name: result.name ?? `image ${result.image}`,
  folder: "",
  width: result.width ?? 4,
  height: result.height ?? 3,
});
