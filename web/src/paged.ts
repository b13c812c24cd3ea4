import { useCallback, useEffect, useRef, useState } from "preact/hooks";

import type { Next } from "./api";
import { messageOf } from "./text";

export interface Paged<T> {
  items: T[];
  ended: boolean;
  error: string | null;
  more: () => void;
  again: () => void;
}

/** What comes in pages: the first at once, one more at each `more()`; from the start whenever `of` changes. */
export function usePaged<T>(
  of: string,
  page: (after: Next | undefined) => Promise<{ items: T[]; next: Next }>,
): Paged<T> {
  const [state, setState] = useState<{ items: T[]; next: Next | undefined; error: string | null }>({
    items: [],
    next: undefined,
    error: null,
  });
  const [turn, setTurn] = useState(0);
  const asked = useRef(false);
  const now = useRef({});
  const load = useCallback(
    (after: Next | undefined, before: T[]) => {
      const mine = now.current;
      asked.current = true;
      page(after).then(
        ({ items, next }) => {
          if (mine === now.current) {
            asked.current = false;
            setState({ items: [...before, ...items], next, error: null });
          }
        },
        (error) => {
          if (mine === now.current) {
            asked.current = false;
            setState({ items: before, next: after, error: messageOf(error) });
          }
        },
      );
    },
    [of],
  );
  useEffect(() => {
    now.current = {};
    setState({ items: [], next: undefined, error: null });
    load(undefined, []);
    return () => {
      now.current = {};
    };
  }, [load, turn]);
  return {
    ...state,
    ended: state.next === null,
    more: () => {
      if (!asked.current && state.next !== null && state.error === null) load(state.next, state.items);
    },
    again: () => setTurn((old) => old + 1),
  };
}
