/** What went wrong, said at once to who cannot see it, and a way to try again where there is one. */
export function Problem({ text, again }: { text: string | null | undefined; again?: (() => void) | undefined }) {
  if (!text) return null;
  return (
    <p class="problem" role="alert">
      {text}
      {again && (
        <>
          {" "}
          <button type="button" onClick={again}>
            Try again
          </button>
        </>
      )}
    </p>
  );
}
