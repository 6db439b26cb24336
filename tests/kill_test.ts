/**
 * A training that is killed goes on to the same bits. `deno task bench:kill` does it two hundred times.
 *
 * @module
 */
import assert from "node:assert/strict";
import { killTrainings } from "./kill.ts";

Deno.test({
  name: "run_bone + SIGKILL at random moments: goes on to the same bits, and no checkpoint is lost",
  ignore: Deno.build.os === "windows",
  async fn() {
    const { resumed, same, lost } = await killTrainings(3, 7);
    assert.deepEqual({ resumed, same, lost }, { resumed: 3, same: 3, lost: 0 });
  },
});
