// A search as it runs: what has been verified so far, then the whole result.

import { useEffect, useState } from "preact/hooks";

import { type Next, type Result, type Search, search as getSearch } from "./api";
import { events } from "./events";
import { messageOf } from "./text";

export interface Followed {
  search: Search | null;
  results: Result[];
  checked: number;
  error: string | null;
}

const NOTHING: Followed = { search: null, results: [], checked: 0, error: null };
const byScore = (a: Result, b: Result) => b.score - a.score || a.image - b.image;

/** turn: another number follows the same search anew, as when it was stopped and is asked for again. */
export function useSearch(id: string | null, turn: number): Followed {
  const key = `${id} ${turn}`;
  const [state, setState] = useState<Followed & { key: string }>({ ...NOTHING, key });
  useEffect(() => {
    if (id === null) return undefined;
    const stop = new AbortController();
    const set = (told: Partial<Followed>) =>
      stop.signal.aborted || setState((old) => ({ ...(old.key === key ? old : NOTHING), ...told, key }));
    follow(id, stop.signal, set).catch((error) => set({ error: messageOf(error) }));
    return () => stop.abort();
  }, [key]);
  return state.key === key ? state : NOTHING;
}

async function follow(id: string, signal: AbortSignal, set: (told: Partial<Followed>) => void): Promise<void> {
  let found = await whole(id);
  set({ search: found, results: found.results });
  if (found.state === "waiting" || found.state === "running") {
    const heard = new Map<number, Result>();
    for await (const { event, data } of events(`/v1/searches/${id}/events`, ["done", "failed"], signal)) {
      if (event !== "verified") continue;
      const result = data as Result;
      const before = heard.get(result.image); // of another example
      if (!before || before.score < result.score) heard.set(result.image, result);
      set({ results: [...heard.values()].sort(byScore), checked: heard.size });
    }
    if (signal.aborted) return;
    found = await whole(id);
    set({ search: found, results: found.results });
  }
  if (found.state === "failed") set({ error: found.error?.message ?? "The search failed." });
}

/** With all its results, which come in pages. */
async function whole(id: string): Promise<Search> {
  const found = await getSearch(id);
  for (let after: Next = found.results.length; after && after < (found.total ?? 0);) {
    const { results } = await getSearch(id, after);
    if (!results.length) break;
    found.results.push(...results);
    after = found.results.length;
  }
  return found;
}
