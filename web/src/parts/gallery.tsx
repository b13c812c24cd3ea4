import { Virtualizer, observeWindowOffset, observeWindowRect, windowScroll } from "@tanstack/virtual-core";
import type { ComponentChildren } from "preact";
import { useEffect, useLayoutEffect, useMemo, useReducer, useRef, useState } from "preact/hooks";

import type { Size } from "../geometry";
import { justify, type Row } from "./justify";

interface Props<T extends Size> {
  label: string;
  items: readonly T[];
  /** How many there are in all, where more than `items` are to come. */
  total?: number;
  keyOf: (item: T) => number | string;
  /** Pixels below each picture for what is written there. */
  caption: number;
  render: (item: T, shown: Size) => ComponentChildren;
  onEnd?: () => void;
}

const GAP = 8;

/** Pictures in rows of equal height that fill the width; of many, only those near the window are in the document. */
export function Gallery<T extends Size>({ label, items, total, keyOf, caption, render, onEnd }: Props<T>) {
  const list = useRef<HTMLUListElement>(null);
  const [width, setWidth] = useState(0);
  const [margin, setMargin] = useState(0);
  const [, redraw] = useReducer((n: number, _: void) => n + 1, 0);
  const rows = useMemo((): Row[] => {
    const target = width < 480 ? (caption > 30 ? 130 : 100) : width < 900 ? 160 : 185;
    return width ? justify(items, width, target, GAP) : [];
  }, [items, width, caption]);

  const [virtual] = useState(
    () =>
      new Virtualizer<Window, Element>({
        count: 0,
        estimateSize: () => 200,
        getScrollElement: () => window,
        observeElementRect: observeWindowRect,
        observeElementOffset: observeWindowOffset,
        scrollToFn: windowScroll,
        initialOffset: () => window.scrollY,
      }),
  );
  virtual.setOptions({
    ...virtual.options,
    count: rows.length,
    estimateSize: (row) => (rows[row]?.height ?? 0) + caption + GAP,
    overscan: 3,
    scrollMargin: margin,
    onChange: () => redraw(),
  });
  useLayoutEffect(() => virtual._didMount(), []);
  useLayoutEffect(() => virtual._willUpdate());
  useLayoutEffect(() => virtual.measure(), [rows]);
  useLayoutEffect(() => {
    const measure = () => setWidth(Math.floor(list.current!.clientWidth));
    measure(); // before the first paint, so that nothing moves
    const observer = new ResizeObserver(measure);
    observer.observe(list.current!);
    return () => observer.disconnect();
  }, []);
  useLayoutEffect(() => {
    if (list.current!.offsetParent) setMargin(Math.round(list.current!.getBoundingClientRect().top + scrollY));
  });

  const seen = virtual.getVirtualItems();
  const last = seen.at(-1)?.index ?? -1;
  useEffect(() => {
    if (last >= rows.length - 2 && width) onEnd?.();
  }, [last, rows.length, width]);

  return (
    <ul ref={list} class="gallery" aria-label={label} style={{ height: `${virtual.getTotalSize()}px` }}>
      {seen.flatMap(({ index, start }) => {
        const row = rows[index];
        return row === undefined
          ? []
          : row.cells.map(({ item, left, width: w }) => (
              <li
                key={keyOf(items[item]!)}
                aria-posinset={item + 1}
                aria-setsize={total ?? items.length}
                style={{
                  transform: `translate(${left}px, ${start - margin}px)`,
                  width: `${w}px`,
                  height: `${row.height + caption}px`,
                }}
              >
                {render(items[item]!, { width: w, height: row.height })}
              </li>
            ));
      })}
    </ul>
  );
}
