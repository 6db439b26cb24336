/**
 * Kills a training two hundred times, at random moments of a run that saves after every step, and lets it go on each time.
 *
 *     deno task bench:kill [kills] [seed]
 *
 * @module
 */
import { type Kills, killTrainings } from "../tests/kill.ts";

const [count = "200", seed = "1"] = Deno.args;
const show = ({ killed, writing, early, resumed, same, lost }: Kills) =>
  console.log(
    `${killed} killed (${writing} while writing a file, ${early} before the first or after the last checkpoint), ` +
      `${resumed} went on, ${same} to the same bits, ${lost} steps lost`,
  );
const kills = await killTrainings(
  Number(count),
  Number(seed),
  (kills) => kills.resumed % 20 === 0 && show(kills),
);
show(kills);
Deno.exit(kills.same === kills.resumed && kills.lost === 0 ? 0 : 1);
