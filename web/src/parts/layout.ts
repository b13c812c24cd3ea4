import { type Size, fit } from "../geometry";

/** Where a picture is in the scene, in CSS pixels, and how many of them are one of its own pixels. */
export interface Placed extends Size {
  left: number;
  top: number;
  scale: number;
}
export interface Plan extends Size {
  query: Placed;
  result: Placed;
}

/** Where the two pictures go in the room there is: beside, above or upon each other, each as large as it can be. */
export function lay(apart: boolean, query: Size, result: Size, room: Size): Plan {
  const place = (size: Size, scale: number, left = 0, top = 0): Placed => ({
    left,
    top,
    scale,
    width: size.width * scale,
    height: size.height * scale,
  });
  if (!apart) {
    const scale = fit(result, room);
    return {
      width: result.width * scale,
      height: result.height * scale,
      result: place(result, scale),
      query: place(query, fit(query, { width: 1280, height: 1280 })),
    };
  }
  const gap = 12;
  const beside = { width: (room.width - gap) / 2, height: room.height };
  const above = { width: room.width, height: (room.height - gap) / 2 };
  const area = (cell: Size) =>
    [query, result].reduce((sum, size) => sum + fit(size, cell) ** 2 * size.width * size.height, 0);
  if (area(beside) >= area(above)) {
    const [q, r] = [fit(query, beside), fit(result, beside)];
    const height = Math.max(query.height * q, result.height * r);
    const first = place(query, q, 0, (height - query.height * q) / 2);
    const second = place(result, r, first.width + gap, (height - result.height * r) / 2);
    return { width: second.left + second.width, height, query: first, result: second };
  }
  const [q, r] = [fit(query, above), fit(result, above)];
  const width = Math.max(query.width * q, result.width * r);
  const first = place(query, q, (width - query.width * q) / 2, 0);
  const second = place(result, r, (width - result.width * r) / 2, first.height + gap);
  return { width, height: second.top + second.height, query: first, result: second };
}

export function inset([x1, y1, x2, y2]: [number, number, number, number], { width, height, scale }: Placed): string {
  return `inset(${y1 * scale}px ${width - x2 * scale}px ${height - y2 * scale}px ${x1 * scale}px)`;
}

export const placed = ({ left, top, width, height }: Placed) => ({
  left: `${left}px`,
  top: `${top}px`,
  width: `${width}px`,
  height: `${height}px`,
});
