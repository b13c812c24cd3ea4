import { useMemo, useState } from "preact/hooks";

import { toSearch } from "../address";
import { type Result, thumbnailOf } from "../api";
import type { Followed } from "../follow";
import { baseName, many, scoreText } from "../text";
import { Gallery } from "./gallery";
import { Minus, Plus } from "./icons";
import { Picture } from "./picture";

interface FoundProps {
  search: Followed["search"] & {};
  results: readonly Result[];
  running: boolean;
  calibrated: boolean;
  least: number | null;
  onUse: (result: Result, weight: number) => void;
}

/** The matches, and folded below them what was not accepted. */
export function Found({ search, results, running, calibrated, least, onUse }: FoundProps) {
  const [unfolded, setUnfolded] = useState(false);
  const all = search.threshold === null && !running;
  const card = (result: Result) => (
    <Card {...{ address: toSearch(search.search, least, result.image), result, calibrated, onUse }} />
  );
  const [matches, tail] = useMemo(() => {
    const shaped = results.map((result) => ({ result, width: result.width ?? 4, height: result.height ?? 3 }));
    return [
      shaped.filter(({ result }) => all || result.accepted),
      shaped.filter(({ result }) => !all && !result.accepted),
    ];
  }, [results, all]);
  const gallery = (label: string, found: typeof matches) => (
    <Gallery
      label={label}
      items={found}
      keyOf={({ result }) => result.image}
      caption={52}
      render={({ result }) => card(result)}
    />
  );
  return (
    <>
      {matches.length > 0 && gallery(all ? "Pictures, most alike first" : "Matches, best first", matches)}
      {tail.length > 0 && (
        <details class="tail" onToggle={(event) => setUnfolded(event.currentTarget.open)}>
          <summary>{many(tail.length, "picture")} not accepted</summary>
          {unfolded && gallery("Not accepted, best first", tail)}
        </details>
      )}
    </>
  );
}

interface CardProps {
  address: string;
  result: Result;
  calibrated: boolean;
  onUse: (result: Result, weight: number) => void;
}

function Card({ address, result, calibrated, onUse }: CardProps) {
  const { image, name, width, height, evidence, score, accepted } = result;
  const called = baseName(name ?? `image ${image}`);
  const said = `${called}, ${scoreText(score, calibrated)}${evidence ? `, ${many(evidence.inliers, "point")} agree` : ""}`;
  return (
    <article class="card">
      <a class="tile" href={address} aria-label={said}>
        <Picture src={thumbnailOf(image, 320)} alt="" lazy />
        {evidence?.outline && width && height && (
          <svg class="drawn" viewBox={`0 0 ${width} ${height}`} preserveAspectRatio="xMidYMid slice" aria-hidden="true">
            <polygon
              class={accepted ? "outline" : "outline other"}
              points={evidence.outline.map((point) => point.join()).join(" ")}
            />
          </svg>
        )}
      </a>
      <div class="caption">
        <p>
          <b class={accepted ? "score" : "score low"}>{scoreText(score, calibrated)}</b>
          {evidence && (
            <span class="soft" title="points that agree">
              {evidence.inliers}
              <span class="wide"> points</span>
            </span>
          )}
          <span class="acts">
            <button
              type="button"
              class="bare"
              aria-label={`More like ${called}`}
              title="More like this"
              onClick={() => onUse(result, 1)}
            >
              <Plus />
            </button>
            <button
              type="button"
              class="bare"
              aria-label={`Less like ${called}`}
              title="Less like this"
              onClick={() => onUse(result, -1)}
            >
              <Minus />
            </button>
          </span>
        </p>
        <p class="name" title={name ?? ""}>
          {called}
        </p>
      </div>
    </article>
  );
}
