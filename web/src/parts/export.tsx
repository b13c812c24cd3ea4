import { useState } from "preact/hooks";

import { toSearch } from "../address";
import { download, query } from "../api";
import { messageOf } from "../text";
import { Link, Save } from "./icons";

/** The result's link, and the result as a file. */
export function Export({ search, least }: { search: string; least: number | null }) {
  const [told, setTold] = useState("");
  const save = (format: string) =>
    download(`/v1/searches/${search}/export${query({ format, least })}`, `resight-${search}.${format}`).catch((error) =>
      setTold(messageOf(error)),
    );
  const copy = () =>
    navigator.clipboard.writeText(`${location.origin}/${toSearch(search, least)}`).then(
      () => setTold("Link copied"),
      () => setTold("Copy the address of this page"),
    );
  return (
    <div class="export" role="group" aria-label="Keep this result">
      <button type="button" onClick={copy}>
        <Link /> Link
      </button>
      <span class="tabs">
        {[
          ["csv", "CSV"],
          ["json", "JSON"],
          ["html", "Page"],
        ].map(([format, label], index) => (
          <button key={format} type="button" aria-label={`Save as ${label}`} onClick={() => void save(format!)}>
            {index === 0 && <Save />}
            {label}
          </button>
        ))}
      </span>
      <span role="status" class="soft">
        {told}
      </span>
    </div>
  );
}
