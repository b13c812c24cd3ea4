// Where the page is: `#/search/s1a2/7` is image 7 of a search's results, `#/search/s1a2?least=0.9` all of them where a
// match has this score at least, `#/browse/[…]` the pictures that fulfil filters.
// All that a link must keep is in the address.

import { useEffect, useState } from "preact/hooks";

import type { Where } from "./api";

export type Place =
  | { view: "search"; search: string | null; image: number | null; least: number | null }
  | { view: "browse"; filters: Where[] }
  | { view: "duplicates" | "jobs" | "collection" };

export function read(hash: string): Place {
  const [path, query] = hash.replace(/^#\/?/, "").split("?");
  const [view, first, second] = path!.split("/");
  if (view === "browse") return { view, filters: filtersOf(first ?? "") };
  if (view === "duplicates" || view === "jobs" || view === "collection") return { view };
  const image = second !== undefined && /^\d+$/.test(second) ? Number(second) : null;
  const search = view === "search" && first && /^[\w-]+$/.test(first) ? first : null;
  const least = Number.parseFloat(new URLSearchParams(query).get("least") ?? "");
  return { view: "search", search, image, least: Number.isFinite(least) ? least : null };
}

export const toSearch = (search: string, least: number | null, image?: number): string =>
  `#/search/${search}${image === undefined ? "" : `/${image}`}${least === null ? "" : `?least=${least}`}`;

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
