import { useEffect, useRef, useState } from "preact/hooks";

import { type Collection, cancelSearch } from "../api";
import type { Followed } from "../follow";
import { count, many, scoreText } from "../text";
import { Export } from "./export";
import { Problem } from "./problem";

interface SummaryProps {
  about: Collection;
  id: string | null;
  followed: Followed;
  running: boolean;
  calibrated: boolean;
  least: number | null;
}

/** What was found, in words: while it is searched for, when it is there, and what to try when it is not. */
export function Summary({ about, id, followed, running, calibrated, least }: SummaryProps) {
  const { search, results, checked, error } = followed;
  // A recipe that cannot tell matches "accepts" all that it ranks.
  const tells = (search?.state === "done" ? search : about).threshold !== null;
  const accepted = tells ? (search?.accepted ?? results.filter((result) => result.accepted).length) : 0;
  const said = error
    ? ""
    : running
      ? `Searching ${many(about.images, "picture")}${checked ? `: ${checked} checked${tells ? `, ${many(accepted, "match", "matches")}` : ""}` : " …"}`
      : !search
        ? "Draw a box if only a part matters, then search."
        : search.state === "cancelled"
          ? "Stopped."
          : accepted
            ? `Found in ${many(accepted, "picture")}`
            : !tells && results.length
              ? `The ${many(results.length, "most alike picture")}`
              : "Nothing found";
  const heading = useRef<HTMLHeadingElement>(null);
  useEffect(() => {
    if (id === null) return;
    // The button that was pressed may be gone, and on a phone the results lie below the window.
    const { top } = heading.current!.getBoundingClientRect();
    if (document.activeElement === document.body) heading.current!.focus({ preventScroll: true });
    if (top > 0.75 * innerHeight) heading.current!.scrollIntoView();
  }, [id]);
  const took = search?.timing ? search.timing.describe + search.timing.filter + search.timing.verify : null;
  return (
    <div class="summary">
      <h1
        ref={heading}
        tabIndex={-1}
        class={!running && search?.state === "done" && !accepted && tells ? "nothing" : ""}
      >
        {said}
      </h1>
      <p role="status" class="hidden">
        {useCalm(said, running)}
      </p>
      {running && (
        <div class="progress" role="progressbar" aria-label="Search">
          <i />
        </div>
      )}
      {running && search && (
        <button type="button" onClick={() => void cancelSearch(search.search)}>
          Stop
        </button>
      )}
      {took !== null && (
        <span class="soft">
          {count(about.images)} pictures in {took.toFixed(2)} s
        </span>
      )}
      {search?.state === "done" && <Export search={search.search} least={least} />}
      <Problem text={error} />
      {search?.state === "done" && search.suspect && least === null && (
        <p class="advice">
          The first ranking has the first of these matches only as number {search.filter_rank}: a hard view, or a
          picture altered to mislead the search.
        </p>
      )}
      {search?.state === "done" && accepted === 0 && search.threshold !== null && (
        <div class="advice">
          <p>
            None of the pictures searched shows the same thing with enough evidence: a match needs{" "}
            {scoreText(search.threshold, calibrated)}
            {results[0] && `, the best has ${scoreText(results[0].score, calibrated)}`}.
          </p>
          <p>What to try:</p>
          <ul>
            <li>Draw a box closely round the thing, without its surroundings.</li>
            <li>Use a sharper or larger photo, taken less from the side.</li>
            {search.request.where !== null && <li>Take the filters away.</li>}
            {!search.request.exact && <li>Compare with every picture, under “Where to look”.</li>}
            {results.length > 0 && <li>Look through the pictures below that were not accepted.</li>}
          </ul>
        </div>
      )}
    </div>
  );
}

/** What is said while it changes often, at most every two seconds, so that a screen reader is not flooded. */
function useCalm(text: string, often: boolean): string {
  const [calm, setCalm] = useState(text);
  const last = useRef(0);
  useEffect(() => {
    const say = () => {
      last.current = Date.now();
      setCalm(text);
    };
    const wait = often && calm !== "" ? Math.max(0, 2000 - (Date.now() - last.current)) : 0;
    if (wait === 0) return say();
    const timer = setTimeout(say, wait);
    return () => clearTimeout(timer);
  }, [text, often]);
  return calm;
}
