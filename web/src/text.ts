// Numbers and conditions in words.

import type { Where } from "./api";

export const count = (value: number): string => value.toLocaleString("en");

export const many = (value: number, one: string, more = `${one}s`): string =>
  `${count(value)} ${value === 1 ? one : more}`;

/** A calibrated score as a percentage that never rounds to certainty, another as it is: a cosine, or points. */
export function scoreText(score: number, calibrated: boolean): string {
  if (!calibrated) return Number.isInteger(score) ? count(score) : score.toFixed(3);
  return score > 0.99 && score < 1 ? "> 99 %" : score < 0.01 && score > 0 ? "< 1 %" : `${Math.round(100 * score)} %`;
}

/** What vectors are compared by: the name that the command line has for it, and what that is where no user chose it. */
export const adapterText = (name: string): string =>
  name === "joint" ? "all kinds (joint)" : name === "none" ? "vectors as they are (none)" : name;

export const baseName = (name: string): string => name.split(/[\\/]/).pop() || name;

export function whereText(where: Where | string): string {
  if (typeof where === "string") return where;
  switch (where.op) {
    case "equals":
      return `${where.key} is ${where.value}`;
    case "contains":
      return `${where.key} contains “${where.text}”`;
    case "has":
      return `${where.key} is known`;
    case "between":
      if (where.low === undefined) return `${where.key} up to ${where.high}`;
      return where.high === undefined ? `${where.key} from ${where.low}` : `${where.key} ${where.low} – ${where.high}`;
    case "all":
      return where.parts.map(whereText).join(", ");
    default:
      return JSON.stringify(where);
  }
}

/** One condition of several, or none. */
export const together = (parts: readonly Where[]): Where | null =>
  parts.length === 0 ? null : parts.length === 1 ? parts[0]! : { op: "all", parts: [...parts] };

export const apart = (where: Where | null): Where[] =>
  where === null ? [] : where.op === "all" ? where.parts : [where];

export const messageOf = (error: unknown): string => (error instanceof Error ? error.message : String(error));

/** A condition in the command line's language, which GET /v1/images takes. */
export function whereWords(where: Where): string {
  const word = (value: unknown) => (typeof value === "string" ? JSON.stringify(value) : String(value));
  const key = "key" in where ? word(where.key) : "";
  switch (where.op) {
    case "equals":
      return `${key} = ${word(where.value)}`;
    case "contains":
      return `${key} has ${word(where.text)}`;
    case "has":
      return `has ${key}`;
    case "between": {
      const ends = [
        where.low !== undefined && `${key} >= ${word(where.low)}`,
        where.high !== undefined && `${key} <= ${word(where.high)}`,
      ];
      return ends.filter(Boolean).join(" and ");
    }
    case "all":
      return where.parts.map((part) => `(${whereWords(part)})`).join(" and ");
    default:
      throw new Error(`a condition “${where.op}” is not made on this page`);
  }
}
