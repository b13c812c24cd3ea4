import { useState } from "preact/hooks";

import type { Folder, Key, Value, Where } from "../api";
import { count, whereText } from "../text";
import { Close } from "./icons";

interface Props {
  folders: readonly Folder[];
  keys: readonly Key[];
  filters: readonly Where[];
  onFilters: (filters: Where[]) => void;
  expression?: string | null;
  onNoExpression?: () => void;
}

/** Conditions on folder, date and metadata: those that hold, each removable, and a form for one more. */
export function Filters({ folders, keys, filters, onFilters, expression, onNoExpression }: Props) {
  const folder = filters.find((part) => part.op === "equals" && part.key === "folder");
  const taken = filters.find((part) => part.op === "between" && part.key === "taken");
  const rest = filters.filter((part) => part !== folder && part !== taken);
  const swap = (old: Where | undefined, made: Where | null) =>
    onFilters([...filters.filter((part) => part !== old), ...(made ? [made] : [])]);
  const dates = keys.find((key) => key.name === "taken");
  const [low, high] = taken?.op === "between" ? [String(taken.low ?? ""), String(taken.high ?? "")] : ["", ""];
  const setDates = (from: string, to: string) =>
    swap(
      taken,
      from || to ? { op: "between", key: "taken", ...(from && { low: from }), ...(to && { high: to }) } : null,
    );
  if (expression) {
    return (
      <ul class="chips" aria-label="Filters">
        <li class="chip">
          <span>{expression}</span>
          <Remove what={`filter ${expression}`} onClick={() => onNoExpression?.()} />
        </li>
      </ul>
    );
  }
  return (
    <div class="filters">
      {folders.length > 1 && (
        <label>
          Folder
          <select
            value={folder?.op === "equals" ? String(folder.value) : ""}
            onChange={(event) =>
              swap(
                folder,
                event.currentTarget.value ? { op: "equals", key: "folder", value: event.currentTarget.value } : null,
              )
            }
          >
            <option value="">all folders</option>
            {folders.map((each) => (
              <option key={each.folder} value={each.folder}>
                {shortest(each.folder, folders)} ({count(each.images)})
              </option>
            ))}
          </select>
        </label>
      )}
      {dates && (
        <fieldset class="dates">
          <legend>Taken</legend>
          <label>
            from <input type="date" value={low} onChange={(event) => setDates(event.currentTarget.value, high)} />
          </label>
          <label>
            to <input type="date" value={high} onChange={(event) => setDates(low, event.currentTarget.value)} />
          </label>
        </fieldset>
      )}
      <More keys={keys} onAdd={(part) => onFilters([...filters, part])} />
      {rest.length > 0 && (
        <ul class="chips" aria-label="Filters">
          {rest.map((part) => (
            <li class="chip" key={whereText(part)}>
              <span>{whereText(part)}</span>
              <Remove what={`filter ${whereText(part)}`} onClick={() => swap(part, null)} />
            </li>
          ))}
        </ul>
      )}
    </div>
  );
}

type Way = "is" | "contains" | "from" | "to" | "known";
const WAYS: Record<Key["kind"], Way[]> = {
  text: ["contains", "is", "from", "to", "known"],
  number: ["is", "from", "to", "known"],
  truth: ["is", "known"],
};

function More({ keys, onAdd }: { keys: readonly Key[]; onAdd: (part: Where) => void }) {
  const all: Pick<Key, "name" | "kind">[] = [
    { name: "path", kind: "text" },
    { name: "width", kind: "number" },
    { name: "height", kind: "number" },
    ...keys,
  ];
  const [chosen, setChosen] = useState(0);
  const [way, setWay] = useState<Way>("contains");
  const [text, setText] = useState("");
  const { name, kind } = all[chosen] ?? all[0]!;
  const ways = WAYS[kind];
  const how = ways.includes(way) ? way : ways[0]!;
  const typed = text.trim();
  const value: Value = kind === "number" ? Number(typed) : kind === "truth" ? typed === "true" : typed;
  const ready = how === "known" || (typed !== "" && !(kind === "number" && !Number.isFinite(value)));
  const add = () => {
    if (!ready) return;
    const bound = value as string | number;
    onAdd(
      how === "known"
        ? { op: "has", key: name }
        : how === "contains"
          ? { op: "contains", key: name, text: typed }
          : how === "is"
            ? { op: "equals", key: name, value }
            : how === "from"
              ? { op: "between", key: name, low: bound }
              : { op: "between", key: name, high: bound },
    );
    setText("");
  };
  return (
    <form
      class="condition"
      onSubmit={(event) => {
        event.preventDefault();
        add();
      }}
    >
      <select aria-label="Key" value={chosen} onChange={(event) => setChosen(Number(event.currentTarget.value))}>
        {all.map((each, index) => (
          <option key={`${each.name} ${each.kind}`} value={index}>
            {each.name}
          </option>
        ))}
      </select>
      <select aria-label="Condition" value={how} onChange={(event) => setWay(event.currentTarget.value as Way)}>
        {ways.map((each) => (
          <option key={each}>{each}</option>
        ))}
      </select>
      {how !== "known" &&
        (kind === "truth" ? (
          <select aria-label="Value" value={text} onChange={(event) => setText(event.currentTarget.value)}>
            <option value="">…</option>
            <option>true</option>
            <option>false</option>
          </select>
        ) : (
          <input
            aria-label="Value"
            value={text}
            inputMode={kind === "number" ? "decimal" : "text"}
            onInput={(event) => setText(event.currentTarget.value)}
          />
        ))}
      <button type="submit" disabled={!ready}>
        Add
      </button>
    </form>
  );
}

export const Remove = ({ what, onClick }: { what: string; onClick: () => void }) => (
  <button type="button" class="bare" aria-label={`Remove ${what}`} onClick={onClick}>
    <Close />
  </button>
);

/** A folder without what all folders have in common. */
function shortest(folder: string, all: readonly Folder[]): string {
  const parts = folder.split("/");
  let shared = 0;
  while (shared < parts.length - 1 && all.every((each) => each.folder.split("/")[shared] === parts[shared])) shared++;
  return parts.slice(shared).join("/");
}
