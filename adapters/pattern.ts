/**
 * Regular expressions from files of strangers: only those that cannot keep a processor busy. A repeated group, or many repetitions
 * one after another, can take a time that doubles with each letter of a name.
 *
 * @module
 */

/** Letters of an expression, repetitions in it, and letters of a name that it is tried on. */
const MOST_LETTERS = 300, MOST_REPEATED = 3, LONGEST_NAME = 128;

/** Group beginnings, classes, escapes, repetitions, and everything else a letter at a time. */
const TOKEN = /\\.|\[(?:\\.|[^\]\\])*\]|\((?:\?(?:[:=!]|<[=!]|P?<\w+>))?|[*+?]|\{\d+(?:,\d*)?\}|[\s\S]/g;

const compiled = new Map<string, RegExp>();

/**
 * An expression for whole names, or for their last parts.
 *
 * @param pattern as PEFT has it: Python's names of groups are understood
 * @param lastParts whether it may begin after any dot of a name
 * @throws RangeError with a clause that follows the expression
 */
export function namePattern(pattern: string, lastParts: boolean): RegExp {
  const source = `^${lastParts ? "(?:.*\\.)?" : ""}(?:${pattern.replaceAll("(?P<", "(?<")})$`;
  let expression = compiled.get(source);
  if (!expression) {
    requireQuick(pattern);
    try {
      expression = new RegExp(source);
    } catch {
      throw new RangeError("is no regular expression");
    }
    if (compiled.size > 1000) compiled.clear();
    compiled.set(source, expression);
  }
  return expression;
}

/** Whether a name is what an expression describes; one that is longer than names are is not. */
export function describes(expression: RegExp, name: string): boolean {
  return name.length <= LONGEST_NAME && expression.test(name);
}

function requireQuick(pattern: string): void {
  if (pattern.length > MOST_LETTERS) throw new RangeError(`has over ${MOST_LETTERS} letters`);
  let repeated = 0, before = "";
  for (const [token] of pattern.matchAll(TOKEN)) {
    const isRepetition = /^([*+]|\{\d)/.test(token);
    if (isRepetition && before === ")") throw new RangeError("repeats a group, which may take for ever");
    if (isRepetition && ++repeated > MOST_REPEATED) {
      throw new RangeError(`repeats more than ${MOST_REPEATED} times`);
    }
    before = token;
  }
}
