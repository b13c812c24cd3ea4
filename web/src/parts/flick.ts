import { useEffect, useState } from "preact/hooks";

/** Which of the two is seen, in turns of 0.7 s; standing still where the user wants less motion. */
export function useFlick(wanted: boolean) {
  const [on, setOn] = useState(true);
  const [runs, setRuns] = useState(() => !matchMedia("(prefers-reduced-motion: reduce)").matches);
  useEffect(() => {
    if (!wanted || !runs) return undefined;
    const timer = setInterval(() => setOn((old) => !old), 700);
    return () => clearInterval(timer);
  }, [wanted, runs]);
  return {
    on,
    runs,
    run: () => setRuns(!runs),
    turn: () => {
      setRuns(false);
      setOn(!on);
    },
  };
}
