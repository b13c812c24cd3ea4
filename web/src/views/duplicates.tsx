import { useRef, useState } from "preact/hooks";

import {
  type Cluster,
  type Collection,
  type Decision,
  type Entry,
  decide,
  duplicates,
  startJob,
  thumbnailOf,
} from "../api";
import { go } from "../address";
import { usePaged } from "../paged";
import { Picture } from "../parts/picture";
import { many, messageOf } from "../text";
import { Problem } from "../parts/problem";

const DECISIONS: [Decision, string][] = [
  ["duplicates", "Duplicates"],
  ["different", "Different"],
  [null, "Undecided"],
];
const PAGE = 20;

const keyOf = (cluster: Cluster): string => cluster.images.map((entry) => entry.id).join();

/** Groups of pictures that are nearly the same in full, and what the user decided about each. */
export function Duplicates({ about, onUse }: { about: Collection; onUse: (entry: Entry, weight: number) => void }) {
  const [counts, setCounts] = useState<{ total: number; uncompared: number } | null>(null);
  const moved = useRef(0); // groups that went behind the undecided since the last page: those after them came forward
  const { items, ended, error, more, again } = usePaged("", async (after) => {
    const page = await duplicates(Math.max(0, Number(after ?? 0) - moved.current), PAGE);
    moved.current = 0;
    setCounts(page);
    return { items: page.clusters, next: page.next };
  });
  const groups = [...new Map(items.map((cluster) => [keyOf(cluster), cluster])).values()];
  const [made, setMade] = useState<Record<string, Decision>>({});
  const [problem, setProblem] = useState<string | null>(null);
  const decisionOf = (cluster: Cluster) => (keyOf(cluster) in made ? made[keyOf(cluster)]! : cluster.decision);
  const set = (cluster: Cluster, decision: Decision) => {
    const change = Number(decision !== null) - Number(decisionOf(cluster) !== null);
    decide(
      cluster.images.map((entry) => entry.id),
      decision,
    ).then(
      () => {
        moved.current += change;
        setMade((old) => ({ ...old, [keyOf(cluster)]: decision }));
        setProblem(null);
      },
      (told) => setProblem(messageOf(told)),
    );
  };
  const find = () =>
    startJob({ kind: "duplicates" }).then(
      () => go("#/jobs"),
      (told) => setProblem(messageOf(told)),
    );
  return (
    <main class="duplicates" id="main">
      <div class="summary">
        <h1>{counts === null ? "Duplicates" : `${many(counts.total, "group")} of duplicates`}</h1>
        {counts !== null && counts.uncompared > 0 && (
          <span class="soft">{many(counts.uncompared, "picture")} not compared yet</span>
        )}
        {about.writable && (
          <button type="button" disabled={counts?.uncompared === 0} onClick={() => void find()}>
            Look for duplicates
          </button>
        )}
      </div>
      <Problem text={error ?? problem} again={error ? again : undefined} />
      {ended && items.length === 0 && !error && (
        <p class="empty">
          {counts?.uncompared === 0 ? (
            "No picture is there twice."
          ) : about.writable ? (
            "No duplicates are known yet. Looking for them takes a search for every picture, and goes on in the background."
          ) : (
            <>
              No duplicates are known yet. Look for them with <code>resight duplicates COLLECTION</code>.
            </>
          )}
        </p>
      )}
      <ol class="clusters">
        {groups.map((cluster, index) => {
          const decision = decisionOf(cluster);
          return (
            <li key={keyOf(cluster)} class={decision ? "decided" : ""}>
              <ul aria-label={`Group ${index + 1}, ${many(cluster.images.length, "picture")}`}>
                {cluster.images.map((entry) => (
                  <li key={entry.id}>
                    <button
                      type="button"
                      class="card"
                      aria-label={`Search with ${entry.name}`}
                      onClick={() => onUse(entry, 1)}
                    >
                      <span
                        class="tile"
                        style={{ "aspect-ratio": Math.max(0.5, Math.min(3, entry.width / entry.height || 1)) }}
                      >
                        <Picture src={thumbnailOf(entry.id, 320)} alt="" lazy />
                      </span>
                      <span class="name" title={`${entry.folder}/${entry.name}`}>
                        {entry.name}
                      </span>
                      <span class="soft">
                        {entry.width} × {entry.height}
                        {entry.overlap > 0 && `, ${Math.round(100 * entry.overlap)} % the same`}
                      </span>
                    </button>
                  </li>
                ))}
              </ul>
              <fieldset class="tabs" disabled={!about.writable}>
                <legend class="hidden">Decision on group {index + 1}</legend>
                {DECISIONS.map(([value, label]) => (
                  <label key={label}>
                    <input
                      type="radio"
                      name={`decision-${keyOf(cluster)}`}
                      checked={decision === value}
                      onChange={() => set(cluster, value)}
                    />
                    {label}
                  </label>
                ))}
              </fieldset>
            </li>
          );
        })}
      </ol>
      {!ended && items.length > 0 && (
        <button type="button" onClick={more}>
          More groups
        </button>
      )}
    </main>
  );
}
