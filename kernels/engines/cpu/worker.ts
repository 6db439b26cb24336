/**
 * A worker of the cpu engine: follows the ticket and does its share of each posted command.
 *
 * @module
 */
/// <reference lib="deno.worker" />
import { linkTape } from "./tape.ts";
import { CONTROL, type Introduction, READ_MESSAGES, SPINS, type ThreadMessage } from "./thread.ts";
import { loadKernels, type WasmKernels } from "./wasm/load.ts";

const tapes = new Map<number, (offset: number) => void>();
let control: Int32Array;
let memory: WebAssembly.Memory;
let kernels: WasmKernels;
let worker: number;
let seen = 0;

function follow(): void {
  while (true) {
    for (let spins = 0; Atomics.load(control, CONTROL.ticket) === seen; spins++) {
      if (spins > SPINS) Atomics.wait(control, CONTROL.ticket, seen);
    }
    seen = (seen + 1) | 0;
    const tape = control[CONTROL.tape]!;
    try {
      if (tape !== READ_MESSAGES) tapes.get(tape)!(control[CONTROL.offset]!);
    } catch {
      // Told by number: the caller waits without reading messages, and would wait for ever for a worker that is gone.
      Atomics.store(control, CONTROL.failed, worker);
    }
    Atomics.add(control, CONTROL.done, 1);
    Atomics.notify(control, CONTROL.done);
    if (tape === READ_MESSAGES) return;
  }
}

/** Where the pool is: behind the worker that started this one, or a port. */
let pool: Pick<MessagePort, "postMessage"> = self;

const hear = ({ data }: MessageEvent<ThreadMessage | Introduction>) => {
  switch (data.kind) {
    case "port":
      pool = data.port;
      data.port.onmessage = hear;
      break;
    case "start":
      ({ control, memory, worker } = data);
      kernels = loadKernels(memory).kernels;
      break;
    case "tape":
      tapes.set(data.id, linkTape(data.tape, memory, kernels, worker));
      pool.postMessage("ready");
      break;
    case "drop":
      tapes.delete(data.id);
      break;
    case "follow":
      follow();
      break;
    case "end":
      self.close();
  }
};
self.onmessage = hear;
