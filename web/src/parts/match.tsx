import { useEffect, useRef, useState } from "preact/hooks";

import { type Match, type Result, type Search, match as getMatch } from "../api";
import type { Shown } from "../draft";
import { baseName, many, messageOf, scoreText } from "../text";
import { Close, Left, Minus, Plus, Right } from "./icons";
import { type Layers, Stage, type View } from "./stage";
import { Problem } from "./problem";

interface Props {
  search: Search;
  results: readonly Result[];
  image: number;
  examples: readonly Shown[];
  calibrated: boolean;
  onOpen: (image: number) => void;
  onClose: () => void;
  onUse: (result: Result, weight: number) => void;
}

const VIEWS: [View, string][] = [
  ["points", "Side by side"],
  ["overlay", "Overlay"],
  ["flicker", "Flicker"],
];
const LAYERS: [keyof Layers, string][] = [
  ["lines", "Lines"],
  ["points", "Points"],
  ["outline", "Outline"],
  ["heat", "Heat map"],
];

/** One result and why it is one, over the page. Left and right arrows go to its neighbours, Escape closes. */
export function MatchView({ search, results, image, examples, calibrated, onOpen, onClose, onUse }: Props) {
  const dialog = useRef<HTMLDialogElement>(null);
  const [view, setView] = useState<View>("points");
  const [layers, setLayers] = useState<Layers>({ lines: true, points: true, outline: true, heat: false });
  const [got, setGot] = useState<Match | null>(null);
  const [error, setError] = useState<string | null>(null);
  const index = results.findIndex((result) => result.image === image);
  const result = results[index];

  useEffect(() => {
    dialog.current!.showModal();
  }, []);
  useEffect(() => {
    let here = true;
    setError(null);
    getMatch(search.search, image).then(
      (match) => here && setGot(match),
      (told) => here && setError(messageOf(told)),
    );
    return () => void (here = false);
  }, [search.search, image]);

  const turn = (by: number) => {
    const next = results[index + by];
    if (next) onOpen(next.image);
  };
  const key = (event: KeyboardEvent) => {
    if (event.target instanceof HTMLInputElement && event.target.type !== "checkbox") return;
    if (event.key === "ArrowLeft") turn(-1);
    else if (event.key === "ArrowRight") turn(1);
    else if (["1", "2", "3"].includes(event.key)) setView(VIEWS[Number(event.key) - 1]![0]);
    else return;
    event.preventDefault();
  };
  const match = got?.image === image ? got : null;
  const evidence = match?.evidence ?? null;
  const example = examples[evidence?.example ?? 0];
  const aligned = evidence?.homography != null;
  const shown = match && !aligned ? "points" : view;
  const name = result?.name ?? `image ${image}`;
  return (
    <dialog ref={dialog} class="match" aria-labelledby="match-name" onKeyDown={key} onClose={onClose}>
      <header>
        <div class="match-title">
          <h2 id="match-name" title={name}>
            {baseName(name)}
          </h2>
          {result && (
            <p>
              <b class={result.accepted ? "score" : "score low"}>{scoreText(result.score, calibrated)}</b>{" "}
              {search.threshold === null ? "alike" : result.accepted ? "match" : "not accepted"}
              {evidence && `, ${evidence.inliers} of ${many(evidence.matches, "matched point")} agree`}
              {match && !evidence && ". Ranked by likeness alone: its points were not compared."}
              {match && evidence && !aligned && ". Too few to lay one picture over the other."}
            </p>
          )}
        </div>
        <div class="group">
          <button type="button" aria-label="Previous result" aria-disabled={index <= 0} onClick={() => turn(-1)}>
            <Left />
          </button>
          <span class="place">
            {index < 0 ? "–" : index + 1} of {results.length}
          </span>
          <button
            type="button"
            aria-label="Next result"
            aria-disabled={index < 0 || index + 1 >= results.length}
            onClick={() => turn(1)}
          >
            <Right />
          </button>
        </div>
        <button type="button" class="bare close" aria-label="Close" onClick={() => dialog.current!.close()}>
          <Close />
        </button>
      </header>
      <div class="match-tools">
        <div class="tabs" role="group" aria-label="View">
          {VIEWS.map(([each, label]) => (
            <button
              key={each}
              type="button"
              aria-pressed={shown === each}
              disabled={each !== "points" && match !== null && !aligned}
              onClick={() => setView(each)}
            >
              {label}
            </button>
          ))}
        </div>
        <div class="layers" role="group" aria-label="Shown over the pictures">
          {LAYERS.filter(([layer]) => shown === "points" || layer === "outline" || layer === "heat").map(
            ([layer, label]) => (
              <label key={layer}>
                <input
                  type="checkbox"
                  checked={layers[layer]}
                  onChange={(event) => setLayers({ ...layers, [layer]: event.currentTarget.checked })}
                />
                {label}
              </label>
            ),
          )}
        </div>
        {result && (
          <div class="group">
            <button type="button" onClick={() => onUse(result, 1)}>
              <Plus /> More like this
            </button>
            <button type="button" onClick={() => onUse(result, -1)}>
              <Minus /> Less
            </button>
          </div>
        )}
      </div>
      <Problem text={error} />
      {!error && result && example ? (
        <Stage key={shown} view={shown} layers={layers} evidence={evidence} example={example} result={result} />
      ) : (
        <div class="stage" />
      )}
    </dialog>
  );
}
