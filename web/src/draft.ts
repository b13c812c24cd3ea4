// What is to be searched for, as it is put together in the page, and the request it makes.

import { type Box, type Details, type Entry, type Ref, type Request, type Where, details, uploaded } from "./api";
import { apart, together } from "./text";

export interface Shown {
  image: Ref;
  name: string;
  width: number;
  height: number;
  box: Box | null;
  weight: number;
}
export interface Draft {
  examples: Shown[];
  filters: Where[];
  /** A condition in words, of a search that the command line's language was used for. */
  expression: string | null;
  top: number;
  exact: boolean;
  /** Null for the collection's own. */
  adapter: string | null;
}

export const EMPTY: Draft = { examples: [], filters: [], expression: null, top: 100, exact: false, adapter: null };

export const requestOf = ({ examples, filters, expression, top, exact, adapter }: Draft): Request => ({
  examples: examples.map(({ image, box, weight }) => ({ image, box, weight })),
  top,
  where: expression ?? together(filters),
  exact,
  adapter,
});

export const same = (a: Request, b: Request): boolean => JSON.stringify(a) === JSON.stringify(b);

export const shownEntry = (entry: Entry, weight = 1): Shown => ({
  image: entry.id,
  name: entry.name,
  width: entry.width,
  height: entry.height,
  box: null,
  weight,
});

/** The draft that a request was made of, from its permanent link. */
export async function draftOf(request: Request): Promise<Draft> {
  const examples = await Promise.all(
    request.examples.map(async ({ image, box, weight }): Promise<Shown> => {
      if (typeof image === "string") {
        const { width, height } = await uploaded(image);
        return { image, name: "uploaded picture", width, height, box, weight };
      }
      const entry: Details = await details(image);
      return { ...shownEntry(entry, weight), box };
    }),
  );
  const { where, top, exact, adapter } = request;
  return {
    examples,
    top,
    exact,
    adapter,
    expression: typeof where === "string" ? where : null,
    filters: where === null || typeof where === "string" ? [] : apart(where),
  };
}
