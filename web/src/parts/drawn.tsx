import { useMemo } from "preact/hooks";

import type { Full, Point } from "../api";
import type { Shown } from "../draft";
import type { Placed, Plan } from "./layout";
import type { Layers } from "./stage";

interface DrawnProps {
  plan: Plan;
  layers: Layers;
  evidence: Full | null;
  example: Shown | null;
}

/** Lines, points and outlines over the scene. With `example` the box that was asked for, too. */
export function Drawn({ plan, layers, evidence, example }: DrawnProps) {
  const at = ({ left, top, scale }: Placed, [x, y]: Point): Point => [left + x * scale, top + y * scale];
  const polygon = (points: readonly Point[]) => points.map((point) => at(plan.result, point).join()).join(" ");
  const pairs = useMemo(() => {
    if (!evidence) return [];
    const across = evidence.query_xy.map(([x]) => x);
    const low = Math.min(...across);
    const width = Math.max(...across) - low || 1;
    return evidence.query_xy.map((from, index) => {
      const [x1, y1] = at(plan.query, from);
      const [x2, y2] = at(plan.result, evidence.result_xy[index]!);
      return { x1, y1, x2, y2, hue: Math.round(20 + (280 * (from[0] - low)) / width) };
    });
  }, [evidence, plan.query.scale, plan.result.scale, plan.result.left, plan.result.top]);
  const box = example?.box;
  return (
    <svg class="drawn" viewBox={`0 0 ${plan.width} ${plan.height}`} aria-hidden="true">
      {layers.lines && (
        <g class="lines" opacity={Math.max(0.16, Math.min(0.8, 60 / pairs.length))}>
          {pairs.map(({ hue, ...ends }, index) => (
            <line key={index} {...ends} stroke={`hsl(${hue} 95% 58%)`} />
          ))}
        </g>
      )}
      {layers.points && (
        <g class="points">
          {pairs.map(({ x1, y1, x2, y2, hue }, index) => (
            <g key={index} stroke={`hsl(${hue} 95% 58%)`}>
              <circle cx={x1} cy={y1} />
              <circle cx={x2} cy={y2} />
            </g>
          ))}
        </g>
      )}
      {layers.outline &&
        evidence &&
        [evidence, ...evidence.others].map(
          (each, index) =>
            each.outline && (
              <polygon key={index} class={index ? "outline other" : "outline"} points={polygon(each.outline)} />
            ),
        )}
      {layers.outline && box && (
        <polygon
          class="asked"
          points={[
            [0, 1],
            [2, 1],
            [2, 3],
            [0, 3],
          ]
            .map(([i, j]) => at(plan.query, [box[i!]!, box[j!]!]).join())
            .join(" ")}
        />
      )}
    </svg>
  );
}
