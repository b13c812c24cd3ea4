import { thumbnailOf } from "../api";
import type { Shown } from "../draft";
import { baseName } from "../text";
import { Remove } from "./filters";
import { Plus } from "./icons";
import { Picture } from "./picture";

interface ExamplesProps {
  examples: readonly Shown[];
  chosen: number;
  onChoose: (index: number) => void;
  onRemove: (index: number) => void;
  onChange: (index: number, made: Partial<Shown>) => void;
  onAdd: (files: readonly File[]) => void;
}
const WEIGHTS: [number, string][] = [
  [2, "much more"],
  [1, "more like this"],
  [0.5, "a little more"],
  [-0.5, "a little less"],
  [-1, "less like this"],
];

/** The query's pictures, each with its weight, to be chosen or removed; and a way to add one. */
export function Examples({ examples, chosen, onChoose, onRemove, onChange, onAdd }: ExamplesProps) {
  return (
    <ul class="examples" aria-label="Pictures of the query">
      {examples.map((example, index) => (
        <li key={`${example.image} ${index}`} class={example.weight < 0 ? "less" : ""}>
          <button
            type="button"
            class="thumb"
            aria-pressed={index === chosen}
            aria-label={`Show ${example.name}`}
            onClick={() => onChoose(index)}
          >
            <Picture src={thumbnailOf(example.image, 160)} alt="" />
          </button>
          {examples.length > 1 ? (
            <select
              aria-label={`Weight of ${example.name}`}
              value={example.weight}
              onChange={(event) => onChange(index, { weight: Number(event.currentTarget.value) })}
            >
              {(WEIGHTS.some(([weight]) => weight === example.weight)
                ? WEIGHTS
                : [[example.weight, String(example.weight)] as const, ...WEIGHTS]
              ).map(([weight, label]) => (
                <option key={weight} value={weight}>
                  {label}
                </option>
              ))}
            </select>
          ) : (
            <span class="name" title={example.name}>
              {baseName(example.name)}
            </span>
          )}
          <Remove what={example.name} onClick={() => onRemove(index)} />
        </li>
      ))}
      <li>
        <label class="add">
          <Plus /> Add a picture
          <input
            type="file"
            accept="image/*"
            class="hidden"
            aria-label="Add a picture to the query"
            onChange={(event) => {
              onAdd([...event.currentTarget.files!]);
              event.currentTarget.value = "";
            }}
          />
        </label>
      </li>
    </ul>
  );
}
