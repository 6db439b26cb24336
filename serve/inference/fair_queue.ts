/**
 * A queue in which clients take turns, so that one who asks for a hundred things does not keep another waiting for all of them.
 *
 * @module
 */

/** Items in line, each of a client. */
export class FairQueue<T> {
  /** In the order in which the clients' turns come. */
  readonly #clients = new Map<string, T[]>();
  #size = 0;

  /** Number of items. */
  get size(): number {
    return this.#size;
  }

  /** Puts an item behind the client's others. */
  push(client: string, item: T): void {
    const line = this.#clients.get(client);
    if (line) line.push(item);
    else this.#clients.set(client, [item]);
    this.#size++;
  }

  /** Takes the first item of the client whose turn it is, who then goes to the end of the line. */
  shift(): T | undefined {
    const [first] = this.#clients;
    if (!first) return undefined;
    const [client, line] = first;
    const item = line.shift();
    this.#clients.delete(client);
    if (line.length) this.#clients.set(client, line);
    this.#size--;
    return item;
  }

  /** Takes an item out of the line, wherever it stands. @returns whether it stood there */
  remove(client: string, item: T): boolean {
    const line = this.#clients.get(client), at = line?.indexOf(item) ?? -1;
    if (!line || at < 0) return false;
    line.splice(at, 1);
    if (!line.length) this.#clients.delete(client);
    this.#size--;
    return true;
  }
}
