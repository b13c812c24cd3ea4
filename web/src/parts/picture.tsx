import { useEffect, useState } from "preact/hooks";

import { hasToken, request } from "../api";

interface Props {
  src: string;
  alt: string;
  class?: string;
  lazy?: boolean;
  style?: Record<string, string | number>;
}

/** A picture of the server; by fetch where a token must go with it. Says so where it cannot be had. */
export function Picture({ src, alt, lazy, ...rest }: Props) {
  const [failed, setFailed] = useState<string | null>(null);
  const held = hasToken();
  const fetched = useFetched(held ? src : null, () => setFailed(src));
  if (failed === src)
    return (
      <span {...rest} class={`gone ${rest.class ?? ""}`} role="img" aria-label={`${alt}: cannot be shown`}>
        picture not available
      </span>
    );
  return (
    <img
      {...rest}
      src={held ? fetched : src}
      alt={alt}
      decoding="async"
      draggable={false}
      loading={lazy ? "lazy" : "eager"}
      onError={() => setFailed(src)}
    />
  );
}

function useFetched(src: string | null, onFail: () => void): string | undefined {
  const [address, setAddress] = useState<string>();
  useEffect(() => {
    if (src === null) return undefined;
    const stop = new AbortController();
    let made: string | undefined;
    request(src, { signal: stop.signal })
      .then((response) => response.blob())
      .then((blob) => setAddress((made = URL.createObjectURL(blob))))
      .catch(() => stop.signal.aborted || onFail());
    return () => {
      stop.abort();
      if (made !== undefined) URL.revokeObjectURL(made);
    };
  }, [src]);
  return address;
}
