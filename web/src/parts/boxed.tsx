import { useRef, useState } from "preact/hooks";

import { type Box, type Ref, pictureOf } from "../api";
import { type Size, tidy } from "../geometry";
import { Picture } from "./picture";

interface Props {
  image: Ref;
  name: string;
  size: Size;
  box: Box | null;
  onBox: (box: Box | null) => void;
}
type Grip = "new" | "move" | "nw" | "n" | "ne" | "e" | "se" | "s" | "sw" | "w";

const GRIPS: Grip[] = ["nw", "n", "ne", "e", "se", "s", "sw", "w"];

/** A picture on which a box is drawn: by pointer, by keys or by numbers. Boxes are in pixels of the original. */
export function Boxed({ image, name, size, box, onBox }: Props) {
  const area = useRef<HTMLDivElement>(null);
  const frame = useRef<HTMLDivElement>(null);
  const [drawn, setDrawn] = useState<Box | null>(null);
  const drag = useRef<{ grip: Grip; x: number; y: number; box: Box } | null>(null);
  const shown = drawn ?? box;

  const at = (event: PointerEvent): [number, number] => {
    const { left, top, width, height } = area.current!.getBoundingClientRect();
    return [((event.clientX - left) / width) * size.width, ((event.clientY - top) / height) * size.height];
  };
  const start = (event: PointerEvent) => {
    if (event.button !== 0) return;
    const [x, y] = at(event);
    const grip = ((event.target as Element).closest<HTMLElement>("[data-grip]")?.dataset["grip"] ?? "new") as Grip;
    drag.current = { grip, x, y, box: shown ?? [x, y, x, y] };
    area.current!.setPointerCapture(event.pointerId);
    event.preventDefault();
  };
  const follow = (event: PointerEvent) => {
    if (!drag.current) return;
    const { grip, x, y, box: from } = drag.current;
    const [u, v] = at(event);
    if (grip === "new") setDrawn(tidy([x, y, u, v], size, 1));
    else if (grip === "move") setDrawn(moved(from, u - x, v - y, size));
    else setDrawn(tidy(resized(from, grip, u - x, v - y), size));
  };
  const end = (event: PointerEvent) => {
    const { grip } = drag.current ?? {};
    drag.current = null;
    setDrawn(null);
    if (grip === undefined || drawn === null || event.type === "pointercancel") return;
    // A box of a few screen pixels is a click that slipped.
    const { width } = area.current!.getBoundingClientRect();
    const least = (8 / width) * size.width;
    if (grip !== "new" || (drawn[2] - drawn[0] > least && drawn[3] - drawn[1] > least)) {
      onBox(tidy(drawn, size));
      frame.current?.focus({ preventScroll: true });
    }
  };
  const key = (event: KeyboardEvent) => {
    if (!box) return;
    if (event.key === "Delete" || event.key === "Backspace") {
      event.preventDefault();
      onBox(null);
      return;
    }
    const sign = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (!sign) return;
    event.preventDefault();
    event.stopPropagation();
    const step = event.altKey ? 1 : Math.max(1, Math.round(Math.max(size.width, size.height) / 100));
    const [dx, dy] = [sign[0]! * step, sign[1]! * step];
    onBox(
      event.shiftKey
        ? tidy([box[0], box[1], Math.max(box[0] + 8, box[2] + dx), Math.max(box[1] + 8, box[3] + dy)], size)
        : moved(box, dx, dy, size),
    );
  };
  const begin = () => {
    const { width: w, height: h } = size;
    onBox(tidy([0.2 * w, 0.2 * h, 0.8 * w, 0.8 * h], size));
    requestAnimationFrame(() => frame.current?.focus());
  };
  const part = (value: number, of: number) => `${(100 * value) / of}%`;
  return (
    <div class="boxed">
      <div
        ref={area}
        class="boxed-area"
        style={{ "aspect-ratio": `${size.width} / ${size.height}`, "--form": size.width / size.height }}
        onPointerDown={start}
        onPointerMove={follow}
        onPointerUp={end}
        onPointerCancel={end}
      >
        <Picture src={pictureOf(image, 1280)} alt={`The picture to find: ${name}`} />
        {shown && (
          <div
            ref={frame}
            class="frame"
            data-grip="move"
            tabIndex={0}
            role="group"
            onKeyDown={key}
            aria-label={`Box of ${shown[2] - shown[0]} × ${shown[3] - shown[1]} pixels at ${shown[0]}, ${shown[1]}`}
            aria-describedby="box-keys"
            style={{
              left: part(shown[0], size.width),
              top: part(shown[1], size.height),
              width: part(shown[2] - shown[0], size.width),
              height: part(shown[3] - shown[1], size.height),
            }}
          >
            {GRIPS.map((grip) => (
              <i key={grip} class={`grip ${grip}`} data-grip={grip} />
            ))}
          </div>
        )}
      </div>
      <p id="box-keys" class="hint">
        {box
          ? "Arrow keys move the box, with Shift they resize it, Delete removes it."
          : "Draw a box round the thing that matters."}
      </p>
      {box ? (
        <Numbers box={box} size={size} onBox={onBox} />
      ) : (
        <button type="button" onClick={begin}>
          Set a box
        </button>
      )}
    </div>
  );
}

function Numbers({ box, size, onBox }: { box: Box; size: Size; onBox: (box: Box | null) => void }) {
  const [x1, y1, x2, y2] = box;
  const field = (label: string, value: number, most: number, made: (value: number) => Box) => (
    <label>
      {label}
      <input
        type="number"
        inputMode="numeric"
        min={0}
        max={most}
        value={value}
        onChange={(event) => {
          const given = event.currentTarget.valueAsNumber;
          if (Number.isFinite(given)) onBox(tidy(made(given), size));
          else event.currentTarget.value = String(value);
        }}
      />
    </label>
  );
  return (
    <div class="numbers" role="group" aria-label="Box in pixels">
      {field("Left", x1, size.width, (v) => [v, y1, v + x2 - x1, y2])}
      {field("Top", y1, size.height, (v) => [x1, v, x2, v + y2 - y1])}
      {field("Width", x2 - x1, size.width, (v) => [x1, y1, x1 + v, y2])}
      {field("Height", y2 - y1, size.height, (v) => [x1, y1, x2, y1 + v])}
      <button type="button" onClick={() => onBox(null)}>
        Whole picture
      </button>
    </div>
  );
}

function moved([x1, y1, x2, y2]: Box, dx: number, dy: number, size: Size): Box {
  const x = Math.max(-x1, Math.min(size.width - x2, dx));
  const y = Math.max(-y1, Math.min(size.height - y2, dy));
  return tidy([x1 + x, y1 + y, x2 + x, y2 + y], size);
}

function resized([x1, y1, x2, y2]: Box, grip: Grip, dx: number, dy: number): Box {
  return [
    x1 + (grip.includes("w") ? dx : 0),
    y1 + (grip.includes("n") ? dy : 0),
    x2 + (grip.includes("e") ? dx : 0),
    y2 + (grip.includes("s") ? dy : 0),
  ];
}
