import type { Size } from "../geometry";

export interface Row {
  height: number;
  cells: { item: number; left: number; width: number }[];
}

/**
 * Rows of pictures that fill `width`, each about `target` pixels high; the last as high as the one before it, as far as it goes.
 *
 * Pictures narrower than 3:5 or wider than 3:1 get cells of these forms.
 */
export function justify(items: readonly Size[], width: number, target: number, gap: number): Row[] {
  const rows: Row[] = [];
  for (let first = 0; first < items.length;) {
    const forms: number[] = [];
    let sum = 0;
    while (first + forms.length < items.length && (sum === 0 || sum * target + gap * (forms.length - 1) < width)) {
      const { width: w, height: h } = items[first + forms.length]!;
      const form = Math.max(0.6, Math.min(3, w / h || 1));
      forms.push(form);
      sum += form;
    }
    const room = width - gap * (forms.length - 1);
    const height = Math.min(
      room / sum,
      first + forms.length < items.length ? 1.5 * target : (rows.at(-1)?.height ?? target),
    );
    let left = 0;
    const cells = forms.map((form, index) => {
      const cell = { item: first + index, left, width: form * height };
      left += cell.width + gap;
      return cell;
    });
    rows.push({ height, cells });
    first += forms.length;
  }
  return rows;
}
