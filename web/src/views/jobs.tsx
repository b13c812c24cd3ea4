import { useState } from "preact/hooks";

import { type Collection, type Job, cancelJob, startJob } from "../api";
import { howFar, isRunning } from "../jobs";
import { count, messageOf } from "../text";
import { Problem } from "../parts/problem";

const KINDS: Record<string, string> = {
  add: "Adding photos",
  remove: "Removing",
  duplicates: "Looking for duplicates",
};
const STATES: Record<Job["state"], string> = {
  waiting: "waiting",
  running: "running",
  done: "done",
  failed: "failed",
  cancelled: "stopped",
};

/** What the server is doing to the collection, and adding of photos to it. */
export function Jobs({
  about,
  jobs,
  onChange,
}: {
  about: Collection;
  jobs: readonly Job[] | null;
  onChange: () => void;
}) {
  const [paths, setPaths] = useState(about.photos[0] ?? "");
  const [problem, setProblem] = useState<string | null>(null);
  const run = (work: Promise<unknown>) =>
    void work.then(
      () => {
        setProblem(null);
        onChange();
      },
      (told) => setProblem(messageOf(told)),
    );
  return (
    <main class="jobs" id="main">
      <div class="summary">
        <h1>Jobs</h1>
      </div>
      {!about.writable ? (
        <p class="empty">
          This collection is served for searching only. Start the server with <code>--write</code> to add photos from
          here.
        </p>
      ) : (
        <form
          class="condition"
          onSubmit={(event) => {
            event.preventDefault();
            run(startJob({ kind: "add", paths: [paths] }));
          }}
        >
          <label>
            Folder or file on the server
            <input value={paths} list="roots" onInput={(event) => setPaths(event.currentTarget.value)} />
          </label>
          <datalist id="roots">
            {about.photos.map((path) => (
              <option key={path} value={path} />
            ))}
          </datalist>
          <button type="submit" disabled={!paths.trim()}>
            Add photos
          </button>
          <button type="button" onClick={() => run(startJob({ kind: "duplicates" }))}>
            Look for duplicates
          </button>
        </form>
      )}
      <Problem text={problem} />
      {about.writable && jobs?.length === 0 && (
        <p class="empty">Nothing is being done, and nothing was done since the server started.</p>
      )}
      <ul class="joblist">
        {jobs?.map((job) => (
          <li key={job.job}>
            <b>{KINDS[job.kind] ?? job.kind}</b> <span class={`state ${job.state}`}>{STATES[job.state]}</span>
            {isRunning(job) && (
              <>
                <progress
                  aria-label={KINDS[job.kind] ?? job.kind}
                  max={job.progress?.total ?? 1}
                  {...(job.progress?.total ? { value: job.progress.done } : {})}
                />
                <span class="soft">{howFar(job)}</span>
                <button type="button" onClick={() => run(cancelJob(job.job))}>
                  Stop
                </button>
              </>
            )}
            {job.error && <p class="problem">{job.error.message}</p>}
            {job.result && (
              <span class="soft">
                {Object.entries(job.result)
                  .filter(([, value]) => typeof value === "number")
                  .map(([key, value]) => `${key.replaceAll("_", " ")} ${count(value as number)}`)
                  .join(", ")}
              </span>
            )}
          </li>
        ))}
      </ul>
    </main>
  );
}
