// Where things lie in pictures that are shown smaller than they are.

import type { Box, Matrix, Point } from "./api";

export interface Size {
  width: number;
  height: number;
}

/** The scale at which `size` fits into `room`, at most `most`. */
export const fit = (size: Size, room: Size, most = Infinity): number =>
  Math.min(room.width / size.width, room.height / size.height, most);

/**
 * The CSS transform of an element that lies over the result and shows the query, by the homography between them.
 *
 * A point x of the element is x / `from` in the query's pixels, is put at H x in the result's, and is shown at
 * `to` times that: S(to) H S(1/from), as the columns of a 4×4 matrix that leaves z alone.
 */
export function warp(h: Matrix, from: number, to: number): string {
  const [[a, b, c], [d, e, f], [g, i, j]] = h;
  const m = [
    [(a * to) / from, (b * to) / from, 0, c * to],
    [(d * to) / from, (e * to) / from, 0, f * to],
    [0, 0, 1, 0],
    [g / from, i / from, 0, j],
  ];
  const columns = [0, 1, 2, 3].flatMap((column) => m.map((row) => row[column]! / j));
  return `matrix3d(${columns.map((value) => Number(value.toPrecision(12))).join(",")})`;
}

/** A box with its corners in order, whole pixels, inside the picture, at least `least` wide and high. */
export function tidy([a, b, c, d]: Box, { width, height }: Size, least = 8): Box {
  const clip = (value: number, most: number) => Math.round(Math.max(0, Math.min(most, value)));
  const spread = (from: number, to: number, most: number): [number, number] => {
    const room = Math.min(least, most);
    const low = Math.min(clip(Math.min(from, to), most), most - room);
    return [low, Math.max(clip(Math.max(from, to), most), low + room)];
  };
  const [x1, x2] = spread(a, c, width);
  const [y1, y2] = spread(b, d, height);
  return [x1, y1, x2, y2];
}

/**
 * How densely points lie, on a grid of `columns` × `rows` over a picture of `size`: Gaussians of a standard deviation of
 * 4 % of the longer side, summed, divided by the highest.
 */
export function density(points: readonly Point[], size: Size, columns: number, rows: number): Float32Array {
  const sums = new Float32Array(columns * rows);
  const sigma = 0.04 * Math.max(size.width, size.height);
  const [dx, dy] = [size.width / columns, size.height / rows];
  const reach = 3 * sigma;
  for (const [x, y] of points) {
    const [left, right] = [
      Math.max(0, Math.floor((x - reach) / dx)),
      Math.min(columns - 1, Math.ceil((x + reach) / dx)),
    ];
    const [top, bottom] = [Math.max(0, Math.floor((y - reach) / dy)), Math.min(rows - 1, Math.ceil((y + reach) / dy))];
    for (let row = top; row <= bottom; row++) {
      for (let column = left; column <= right; column++) {
        const [u, v] = [(column + 0.5) * dx - x, (row + 0.5) * dy - y];
        sums[row * columns + column]! += Math.exp(-(u * u + v * v) / (2 * sigma * sigma));
      }
    }
  }
  const most = sums.reduce((a, b) => Math.max(a, b), 0);
  return most ? sums.map((value) => value / most) : sums;
}
