import { useLayoutEffect, useRef, useState } from "preact/hooks";

import { type Full, type Result, pictureOf } from "../api";
import type { Shown } from "../draft";
import { type Size, warp } from "../geometry";
import { Drawn } from "./drawn";
import { useFlick } from "./flick";
import { Heat } from "./heat";
import { Minus, Plus } from "./icons";
import { type Placed, inset, lay, placed } from "./layout";
import { Picture } from "./picture";
import { useZoom } from "./zoom";

export type View = "points" | "overlay" | "flicker";
export interface Layers {
  lines: boolean;
  points: boolean;
  outline: boolean;
  heat: boolean;
}

interface StageProps {
  view: View;
  layers: Layers;
  evidence: Full | null;
  example: Shown;
  result: Result;
}

/** The two pictures, beside or over each other, with what is drawn on them; zoomed by wheel, pinch, drag and buttons. */
export function Stage({ view, layers, evidence, example, result }: StageProps) {
  const stage = useRef<HTMLDivElement>(null);
  const [room, setRoom] = useState<Size>({ width: 0, height: 0 });
  useLayoutEffect(() => {
    const observer = new ResizeObserver(() =>
      setRoom({ width: stage.current!.clientWidth, height: stage.current!.clientHeight }),
    );
    observer.observe(stage.current!);
    return () => observer.disconnect();
  }, []);
  const size = { width: result.width ?? 4, height: result.height ?? 3 };
  const plan = room.width > 40 && room.height > 40 ? lay(view === "points", example, size, room) : null;
  const [zoomer, scene, zoomed] = useZoom(stage, plan ? `${plan.width} ${plan.height} ${result.image}` : "");
  const side = zoomed ? 2048 : 1280;
  const [shown, setShown] = useState(0.5);
  const flick = useFlick(view === "flicker");
  const over = view === "overlay" ? shown : flick.on ? 1 : 0;
  return (
    <>
      <div class="stage" ref={stage}>
        {plan && (
          <div class="scene" ref={scene} style={{ width: `${plan.width}px`, height: `${plan.height}px` }}>
            {view === "points" ? (
              <>
                <Pane at={plan.query} image={example.image} side={side} alt={`The query, ${example.name}`} />
                <Pane at={plan.result} image={result.image} side={side} alt={`The result, ${result.name ?? ""}`} />
                {layers.heat && evidence && <Heat at={plan.query} points={evidence.query_xy} size={example} />}
                {layers.heat && evidence && <Heat at={plan.result} points={evidence.result_xy} size={size} />}
                <Drawn plan={plan} layers={layers} evidence={evidence} example={example} />
              </>
            ) : (
              <>
                <Pane at={plan.result} image={result.image} side={side} alt={`The result, ${result.name ?? ""}`} />
                {evidence?.homography && (
                  <div class="clip" style={{ opacity: over }}>
                    <div
                      class="warped"
                      style={{
                        width: `${plan.query.width}px`,
                        height: `${plan.query.height}px`,
                        transform: warp(evidence.homography, plan.query.scale, plan.result.scale),
                        "clip-path": example.box ? inset(example.box, plan.query) : undefined,
                      }}
                    >
                      <Picture src={pictureOf(example.image, side)} alt={`The query laid over it, ${example.name}`} />
                    </div>
                  </div>
                )}
                {layers.heat && evidence && <Heat at={plan.result} points={evidence.result_xy} size={size} />}
                <Drawn
                  plan={plan}
                  layers={{ ...layers, lines: false, points: false }}
                  evidence={evidence}
                  example={null}
                />
              </>
            )}
          </div>
        )}
      </div>
      <div class="stage-tools">
        <div class="group">
          <button type="button" aria-label="Zoom out" onClick={() => zoomer.current?.zoomOut()}>
            <Minus />
          </button>
          <button type="button" onClick={() => zoomer.current?.reset()}>
            Fit
          </button>
          <button type="button" aria-label="Zoom in" onClick={() => zoomer.current?.zoomIn()}>
            <Plus />
          </button>
        </div>
        {view === "overlay" && (
          <label class="slider">
            Result{" "}
            <input
              type="range"
              min="0"
              max="100"
              value={100 * shown}
              aria-label="How much of the query is seen"
              onInput={(event) => setShown(event.currentTarget.valueAsNumber / 100)}
            />{" "}
            Query
          </label>
        )}
        {view === "flicker" && (
          <div class="group">
            <button type="button" onClick={flick.turn}>
              Show the {flick.on ? "result" : "query"}
            </button>
            <button type="button" aria-pressed={flick.runs} onClick={flick.run}>
              {flick.runs ? "Stop" : "Flicker"}
            </button>
          </div>
        )}
      </div>
    </>
  );
}

const Pane = ({ at, image, side, alt }: { at: Placed; image: Shown["image"]; side: number; alt: string }) => (
  <div class="pane" style={placed(at)}>
    <Picture src={pictureOf(image, side)} alt={alt} />
  </div>
);
