// Where the page is: `#/search/s1a2/7` is image 7 of a search's results, `#/browse/[…]` the pictures that fulfil filters.
// All that a link must keep is in the address.

import { useEffect, useState } from "preact/hooks";

import type { Where } from "./api";

export type Place =
  | { view: "search"; search: string | null; image: number | null }
  | { view: "browse"; filters: Where[] }
  | { view: "duplicates" | "jobs" | "collection" };

export function read(hash: string): Place {
  const [view, first, second] = hash.replace(/^#\/?/, "").split("/");
  if (view === "browse") return { view, filters: filtersOf(first ?? "") };
  if (view === "duplicates" || view === "jobs" || view === "collection") return { view };
  const image = second !== undefined && /^\d+$/.test(second) ? Number(second) : null;
  return { view: "search", search: view === "search" && first && /^[\w-]+$/.test(first) ? first : null, image };
}

export const toSearch = (search: string, image?: number): string =>
  `#/search/${search}${image === undefined ? "" : `/${image}`}`;

export const toBrowse = (filters: readonly Where[]): string =>
  filters.length ? `#/browse/${encodeURIComponent(JSON.stringify(filters))}` : "#/browse";

/** Of an address that may have been cut off; what no filter can be is refused by the service, in words. */
function filtersOf(part: string): Where[] {
  try {
    const found: unknown = JSON.parse(decodeURIComponent(part));
    return Array.isArray(found) ? (found as Where[]) : [];
  } catch {
    return [];
  }
}

export const go = (address: string): void => void (location.hash = address);

/** Goes there without a step in the browser's history, as between a search's results. */
export function goSideways(address: string): void {
  history.replaceState(null, "", address);
  dispatchEvent(new HashChangeEvent("hashchange"));
}

export function usePlace(): Place {
  const [place, setPlace] = useState(() => read(location.hash));
  useEffect(() => {
    const follow = () => setPlace(read(location.hash));
    addEventListener("hashchange", follow);
    return () => removeEventListener("hashchange", follow);
  }, []);
  return place;
}
