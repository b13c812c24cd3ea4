import { useLayoutEffect, useRef } from "preact/hooks";

import type { Point } from "../api";
import { type Size, density } from "../geometry";
import { type Placed, placed } from "./layout";

/** Density of the agreeing points, from clear over violet and orange to pale yellow. */
export function Heat({ at, points, size }: { at: Placed; points: readonly Point[]; size: Size }) {
  const canvas = useRef<HTMLCanvasElement>(null);
  useLayoutEffect(() => {
    const scale = 160 / Math.max(size.width, size.height);
    const [columns, rows] = [Math.max(1, Math.round(size.width * scale)), Math.max(1, Math.round(size.height * scale))];
    const [context, values] = [canvas.current!.getContext("2d")!, density(points, size, columns, rows)];
    canvas.current!.width = columns;
    canvas.current!.height = rows;
    const pixels = context.createImageData(columns, rows);
    values.forEach((value, index) => pixels.data.set(heatColour(value), 4 * index));
    context.putImageData(pixels, 0, 0);
  }, [points, size.width, size.height]);
  return <canvas ref={canvas} class="heat" style={placed(at)} role="img" aria-label="Where most points agree" />;
}

/** Stops of matplotlib's inferno. */
const INFERNO = [
  [0, 0, 4],
  [87, 16, 110],
  [188, 55, 84],
  [249, 142, 9],
  [252, 255, 164],
];

function heatColour(value: number): [number, number, number, number] {
  const at = Math.min(value, 0.999) * (INFERNO.length - 1);
  const [low, high, part] = [INFERNO[Math.floor(at)]!, INFERNO[Math.floor(at) + 1]!, at % 1];
  const [r, g, b] = low.map((from, index) => from + part * (high[index]! - from));
  return [r!, g!, b!, 255 * 0.85 * Math.min(1, 1.6 * value)];
}
