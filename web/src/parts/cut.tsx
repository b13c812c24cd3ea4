import { useState } from "preact/hooks";

import type { Result } from "../api";
import { scoreText } from "../text";

interface CutProps {
  results: readonly Result[];
  calibrated: boolean;
  /** The score from which a result is a match: the user's choice and the recipe's, null where there is none. */
  least: number | null;
  usual: number | null;
  onLeast: (least: number | null) => void;
}

const PERCENT = Array.from({ length: 101 }, (_, percent) => percent / 100);

/** From which score on a result is a match: a probability in steps of one per cent, a similarity from one result on. */
export function Cut({ results, calibrated, least, usual, onLeast }: CutProps) {
  const [dragged, setDragged] = useState<number | null>(null);
  // Rounded downwards, or a result would not have its own score.
  const marks = calibrated ? PERCENT : results.map(({ score }) => Math.floor(score * 1e4) / 1e4).reverse();
  const shown = dragged ?? least ?? usual;
  const place = shown === null ? 0 : marks.findIndex((mark) => mark >= shown - 1e-6);
  const said = shown === null ? "any likeness" : `${scoreText(shown, calibrated)} at least`;
  return (
    <div class="cut">
      <label>
        A match has
        <input
          type="range"
          min={0}
          max={marks.length - 1}
          value={place < 0 ? marks.length - 1 : place}
          aria-valuetext={said}
          onInput={({ currentTarget }) => setDragged(marks[Number(currentTarget.value)]!)}
          onChange={({ currentTarget }) => {
            setDragged(null);
            onLeast(marks[Number(currentTarget.value)]!);
          }}
        />
      </label>
      <span class="at">{said}</span>
      {least !== null && (
        <button type="button" onClick={() => onLeast(null)}>
          {usual === null ? "All" : `Back to ${scoreText(usual, calibrated)}`}
        </button>
      )}
    </div>
  );
}
