import { useEffect, useRef, useState } from "preact/hooks";

import { type Job, jobs as getJobs } from "./api";
import { count } from "./text";

export const isRunning = (job: Job): boolean => job.state === "waiting" || job.state === "running";

export const howFar = ({ progress }: Job): string =>
  !progress
    ? ""
    : `${progress.phase} ${count(progress.done)}${progress.total === null ? "" : ` of ${count(progress.total)}`}`;

/** The jobs of a collection that can be written to: every two seconds while one runs, else every ten. */
export function useJobs(wanted: boolean, onDone: () => void): [Job[] | null, () => void] {
  const [jobs, setJobs] = useState<Job[] | null>(null);
  const [turn, setTurn] = useState(0);
  const working = jobs?.some(isRunning) ?? false;
  const before = useRef(false);
  useEffect(() => {
    if (before.current && !working) onDone();
    before.current = working;
  }, [working]);
  useEffect(() => {
    if (!wanted) return undefined;
    const load = () => document.hidden || getJobs().then(setJobs, () => undefined);
    void load();
    const timer = setInterval(load, working ? 2000 : 10_000);
    return () => clearInterval(timer);
  }, [wanted, working, turn]);
  return [jobs, () => setTurn(turn + 1)];
}
