/**
 * A command that may reach the network and write in `models`, and says what it may still do when its work begins. Its arguments are
 * names of the Hub, and whether it listens later.
 *
 * @module
 */
import { runCommand } from "../scripts/command.ts";
import { HUB_FOLDER } from "../formats/hub.ts";

await runCommand((args) => {
  const state = (descriptor: Deno.PermissionDescriptor) => Deno.permissions.querySync(descriptor).state;
  const host = (host: string) => state({ name: "net", host });
  console.log(JSON.stringify({
    args,
    hub: [
      ...new Set(
        ["huggingface.co", "cdn.huggingface.co", "cdn.hf.co", "hf-mirror.com", "a.hf-mirror.com"].map(host),
      ),
    ],
    loopback: host("127.0.0.1"),
    write: state({ name: "write", path: HUB_FOLDER }),
    token: state({ name: "env", variable: "HF_TOKEN" }),
    endpoint: state({ name: "env", variable: "HF_ENDPOINT" }),
    called: state({ name: "env", variable: "INIT_CWD" }),
  }));
  return Promise.resolve(0);
}, {
  wanted: ([listens, hubUrl, ...names]) => ({ names, listens: listens === "listens", hubUrl, yes: true }),
});
