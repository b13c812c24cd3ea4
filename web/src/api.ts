// The HTTP API under /v1: its values, and how they are asked for.

import { whereWords } from "./text";

export type Box = [number, number, number, number];
export type Point = [number, number];
export type Matrix = [Point3, Point3, Point3];
type Point3 = [number, number, number];
export type Value = string | number | boolean;

export type Where =
  | { op: "equals"; key: string; value: Value }
  | { op: "contains"; key: string; text: string }
  | { op: "between"; key: string; low?: string | number; high?: string | number }
  | { op: "has"; key: string }
  | { op: "all"; parts: Where[] }
  | { op: "one_of" | "not" | "any"; [more: string]: unknown };

/** An image of the collection by its id, or an uploaded picture by its opaque name. */
export type Ref = number | string;

export interface Example {
  image: Ref;
  box: Box | null;
  weight: number;
}
export interface Request {
  examples: Example[];
  top: number;
  where: Where | string | null;
  exact: boolean;
  adapter: string | null;
}

export interface Collection {
  name: string;
  recipe: string;
  fingerprint: string;
  path: string;
  images: number;
  missing: number;
  failures: number;
  bytes_on_disk: number;
  advice: string | null;
  writable: boolean;
  verifies: boolean;
  /** Least score of a match; null with a recipe that cannot tell matches. */
  threshold: number | null;
  /** What a search may have vectors compared by, and what it has where it says nothing. */
  adapters: string[];
  adapter: string;
  ready: boolean;
  why: string | null;
  photos: string[];
}
export interface Entry {
  id: number;
  name: string;
  folder: string;
  width: number;
  height: number;
}
export interface Details extends Entry {
  missing: boolean;
  metadata: Record<string, Value>;
}
export interface Evidence {
  inliers: number;
  matches: number;
  box: Box | null;
  outline: Point[] | null;
  example: number;
  agreement: number;
}
export interface Result {
  image: number;
  score: number;
  accepted: boolean;
  evidence: Evidence | null;
  /** Null for an image that was removed since. */
  name: string | null;
  width: number | null;
  height: number | null;
}
export interface Search {
  search: string;
  state: "waiting" | "running" | "done" | "failed" | "cancelled";
  request: Request;
  accepted: number | null;
  total: number | null;
  threshold: number | null;
  calibrated: boolean | null;
  /** Where the filter has the first of the matches, and whether that is suspiciously late. */
  filter_rank: number | null;
  suspect: boolean | null;
  results: Result[];
  timing: { describe: number; filter: number; verify: number; waited: number } | null;
  error: { code: string; message: string } | null;
}
export interface Instance extends Evidence {
  homography: Matrix | null;
  query_xy: Point[];
  result_xy: Point[];
}
export type Full = Instance & { others: Instance[] };
export interface Match {
  image: number;
  score: number;
  accepted: boolean;
  evidence: Full | null;
}
export interface Job {
  job: string;
  kind: string;
  state: Search["state"];
  progress: { phase: string; done: number; total: number | null } | null;
  result: Record<string, unknown> | null;
  error: { code: string; message: string } | null;
}
export type Decision = "duplicates" | "different" | null;
/** overlap: of an image's frame with the one of the others that it resembles most; 0 where it was only decided. */
export interface Cluster {
  images: (Entry & { overlap: number; inliers: number })[];
  decision: Decision;
}
/** What to give as `after` for the page that follows. */
export type Next = string | number | null;
export interface Folder {
  folder: string;
  images: number;
}
export interface Key {
  name: string;
  kind: "number" | "text" | "truth";
  images: number;
  low: Value | null;
  high: Value | null;
  frequent: [Value, number][];
}
export interface Failure {
  path: string;
  reason: string;
}

export class ApiError extends Error {
  constructor(
    readonly status: number,
    message: string,
    readonly code = "",
  ) {
    super(message);
  }
}

const TOKEN = "resight-token";

/** Takes a token from `#token=…` once, keeps it for this tab, and clears it from the address. */
export function keepToken(): void {
  const found = /^#token=([^&]+)/.exec(location.hash);
  if (!found) return;
  sessionStorage.setItem(TOKEN, decodeURIComponent(found[1]!));
  history.replaceState(null, "", location.pathname + "#/");
}

export const hasToken = (): boolean => sessionStorage.getItem(TOKEN) !== null;

export function setToken(token: string): void {
  sessionStorage.setItem(TOKEN, token);
}

export async function request(path: string, init: RequestInit = {}): Promise<Response> {
  const headers = new Headers(init.headers);
  const token = sessionStorage.getItem(TOKEN);
  if (token !== null) headers.set("Authorization", `Bearer ${token}`);
  let response: Response;
  try {
    response = await fetch(path, { ...init, headers });
  } catch (error) {
    if (init.signal?.aborted) throw error;
    throw new ApiError(0, "The server does not answer. Is `resight serve` still running?");
  }
  if (response.ok) return response;
  const body: unknown = await response.json().catch(() => null);
  const told = (body as { error?: { code?: string; message?: string } } | null)?.error;
  throw new ApiError(response.status, told?.message ?? `The server answered ${response.status}.`, told?.code);
}

async function json<T>(path: string, init?: RequestInit): Promise<T> {
  return (await (await request(path, init)).json()) as T;
}

function send<T>(method: string, path: string, body: unknown, headers: Record<string, string> = {}): Promise<T> {
  return json(path, {
    method,
    body: JSON.stringify(body),
    headers: { "Content-Type": "application/json", ...headers },
  });
}

export function query(values: Record<string, string | number | null | undefined>): string {
  const given = Object.entries(values).filter(([, value]) => value != null && value !== "");
  return given.length ? "?" + new URLSearchParams(given.map(([k, v]) => [k, String(v)])) : "";
}

export const collection = () => json<Collection>("/v1/collection");
export const details = (id: number) => json<Details>(`/v1/images/${id}`);
export const images = (after: Next | undefined, limit: number, where: Where | null) =>
  json<{ images: Entry[]; next: Next }>(
    "/v1/images" + query({ after, limit, where: where ? whereWords(where) : undefined }),
  );
export const folders = async () => (await json<{ folders: Folder[] }>("/v1/folders")).folders;
export const keys = async () => (await json<{ keys: Key[] }>("/v1/metadata/keys")).keys;
export const failures = (after?: Next) =>
  json<{ failures: Failure[]; next: Next }>("/v1/failures" + query({ after, limit: 200 }));

export function upload(file: Blob): Promise<{ query: string; width: number; height: number }> {
  const form = new FormData();
  form.append("image", file);
  return json("/v1/queries", { method: "POST", body: form });
}
export const uploaded = (q: string) => json<{ query: string; width: number; height: number }>(`/v1/queries/${q}`);

export const startSearch = (wanted: Request) => send<{ search: string }>("POST", "/v1/searches", wanted);
export const search = (s: string, after?: Next) =>
  json<Search & { next?: Next }>(`/v1/searches/${s}` + query({ after, limit: 500 }));
export const cancelSearch = (s: string) => request(`/v1/searches/${s}`, { method: "DELETE" });
export const match = (s: string, image: number) => json<Match>(`/v1/searches/${s}/results/${image}`);

export const jobs = async () => (await json<{ jobs: Job[] }>("/v1/jobs")).jobs;
export const startJob = (job: Record<string, unknown>) => send<{ job: string }>("POST", "/v1/jobs", job);
export const cancelJob = (j: string) => request(`/v1/jobs/${j}`, { method: "DELETE" });

export const duplicates = (after: number, limit: number) =>
  json<{ clusters: Cluster[]; next: number | null; total: number; uncompared: number }>(
    "/v1/duplicates" + query({ after, limit }),
  );
export const decide = (images: readonly number[], decision: Decision) =>
  request("/v1/duplicates/decision", {
    method: "PUT",
    body: JSON.stringify({ images, decision }),
    headers: { "Content-Type": "application/json" },
  });

export type Side = 160 | 320 | 640;
export const thumbnailOf = (image: Ref, side: Side): string =>
  typeof image === "number"
    ? `/v1/images/${image}/thumbnail?side=${side}`
    : `/v1/queries/${image}/picture?side=${side}`;
export const pictureOf = (image: Ref, side: number): string =>
  `/v1/${typeof image === "number" ? "images" : "queries"}/${image}/picture?side=${side}`;

/** Saves what `path` answers as a file. A link would do, but could not carry the token. */
export async function download(path: string, name: string): Promise<void> {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(await (await request(path)).blob());
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}
