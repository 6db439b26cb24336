/**
 * Scalar expressions: what an elementwise op computes from one element of each of its inputs. They differentiate
 * themselves, and are written out as WGSL or as JavaScript with every common part computed once.
 *
 * @module
 */

/** A unary function of the language. */
export type Unary = "neg" | "exp" | "log" | "tanh" | "sigmoid" | "sqrt" | "step";
/** A binary function of the language. */
export type Binary = "add" | "sub" | "mul" | "div" | "max";

/** What an expression is made of. */
export type Form =
  | { readonly kind: "input"; readonly index: number }
  | { readonly kind: "constant"; readonly value: number }
  | { readonly kind: "unary"; readonly name: Unary; readonly x: Expression }
  | { readonly kind: "binary"; readonly name: Binary; readonly x: Expression; readonly y: Expression };

type Operand = Expression | number;

/** An expression of real numbers. Build it from inputs with its methods: `k.mul(a.sub(1).mul(kA).add(1))`. */
export class Expression {
  private constructor(readonly form: Form) {}

  /** Input number `index`. */
  static input(index: number): Expression {
    return new Expression({ kind: "input", index });
  }

  /** A constant. */
  static constant(value: number): Expression {
    return new Expression({ kind: "constant", value });
  }

  static #of(x: Operand): Expression {
    return typeof x === "number" ? Expression.constant(x) : x;
  }

  #is(value: number): boolean {
    return this.form.kind === "constant" && this.form.value === value;
  }

  #unary(name: Unary): Expression {
    return new Expression({ kind: "unary", name, x: this });
  }

  #binary(name: Binary, y: Expression): Expression {
    return new Expression({ kind: "binary", name, x: this, y });
  }

  /** Sum. */
  add(other: Operand): Expression {
    const y = Expression.#of(other);
    return y.#is(0) ? this : this.#is(0) ? y : this.#binary("add", y);
  }

  /** Difference. */
  sub(other: Operand): Expression {
    const y = Expression.#of(other);
    return y.#is(0) ? this : this.#is(0) ? y.neg() : this.#binary("sub", y);
  }

  /** Product. */
  mul(other: Operand): Expression {
    const y = Expression.#of(other);
    if (this.#is(0) || y.#is(0)) return Expression.constant(0);
    return y.#is(1) ? this : this.#is(1) ? y : this.#binary("mul", y);
  }

  /** Quotient. */
  div(other: Operand): Expression {
    const y = Expression.#of(other);
    return y.#is(1) || this.#is(0) ? this : this.#binary("div", y);
  }

  /** The larger of the two. */
  max(other: Operand): Expression {
    return this.#binary("max", Expression.#of(other));
  }

  /** The opposite. */
  neg(): Expression {
    return this.#is(0) ? this : this.#unary("neg");
  }

  /** eˣ. */
  exp(): Expression {
    return this.#unary("exp");
  }

  /** Natural logarithm. */
  log(): Expression {
    return this.#unary("log");
  }

  /** Hyperbolic tangent. */
  tanh(): Expression {
    return this.#unary("tanh");
  }

  /** 1 / (1 + e⁻ˣ). */
  sigmoid(): Expression {
    return this.#unary("sigmoid");
  }

  /** Square root. */
  sqrt(): Expression {
    return this.#unary("sqrt");
  }

  /** 1 where x > 0, else 0. */
  step(): Expression {
    return this.#unary("step");
  }

  /** x · x. */
  square(): Expression {
    return this.mul(this);
  }

  /** max(x, 0). */
  relu(): Expression {
    return this.max(0);
  }

  /**
   * Expressions with `places[i]` where input i was, and nothing else changed; parts that they share are shared afterwards too.
   * An input without a place must not occur.
   */
  static substitute(
    expressions: readonly Expression[],
    places: readonly (Expression | undefined)[],
  ): Expression[] {
    const known = new Map<Expression, Expression>();
    const visit = (expression: Expression): Expression => {
      let result = known.get(expression);
      if (!result) known.set(expression, result = rebuilt(expression));
      return result;
    };
    const rebuilt = (expression: Expression): Expression => {
      const { form } = expression;
      if (form.kind === "input") return places[form.index]!;
      if (form.kind === "constant") return expression;
      if (form.kind === "unary") return new Expression({ ...form, x: visit(form.x) });
      return new Expression({ ...form, x: visit(form.x), y: visit(form.y) });
    };
    return expressions.map(visit);
  }

  /** Derivative with respect to input `index`; at a kink, the derivative from below. */
  derivative(index: number, known: Map<Expression, Expression> = new Map()): Expression {
    const found = known.get(this);
    if (found) return found;
    const result = this.#derivative(index, known);
    known.set(this, result);
    return result;
  }

  #derivative(index: number, known: Map<Expression, Expression>): Expression {
    const form = this.form;
    if (form.kind === "input") return Expression.constant(form.index === index ? 1 : 0);
    if (form.kind === "constant") return Expression.constant(0);
    const dx = form.x.derivative(index, known);
    if (form.kind === "unary") {
      switch (form.name) {
        case "neg":
          return dx.neg();
        case "exp":
          return this.mul(dx);
        case "log":
          return dx.div(form.x);
        case "tanh":
          return Expression.constant(1).sub(this.square()).mul(dx);
        case "sigmoid":
          return this.mul(Expression.constant(1).sub(this)).mul(dx);
        case "sqrt":
          return dx.div(this.mul(2));
        case "step":
          return Expression.constant(0);
      }
    }
    const dy = form.y.derivative(index, known);
    switch (form.name) {
      case "add":
        return dx.add(dy);
      case "sub":
        return dx.sub(dy);
      case "mul":
        return dx.mul(form.y).add(form.x.mul(dy));
      case "div":
        return dx.div(form.y).sub(this.div(form.y).mul(dy));
      case "max": {
        const first = form.x.sub(form.y).step();
        return first.mul(dx).add(Expression.constant(1).sub(first).mul(dy));
      }
    }
  }
}

/** How a language writes the functions; arguments are already simple names or literals. */
interface Language {
  readonly declare: string;
  literal(value: number): string;
  readonly unary: Readonly<Record<Unary, (x: string) => string>>;
  readonly binary: Readonly<Record<Binary, (x: string, y: string) => string>>;
}

/**
 * WGSL over the type F, `f32` or `vec4<f32>`. Its exp and tanh may overflow on the way to a finite result, so their arguments are
 * clamped where the result is exact in f32.
 */
export const WGSL: Language = {
  declare: "let",
  literal: (value) => `F(${value})`,
  unary: {
    neg: (x) => `-${x}`,
    exp: (x) => `exp(${x})`,
    log: (x) => `log(${x})`,
    tanh: (x) => `tanh(clamp(${x}, F(-15.0), F(15.0)))`,
    sigmoid: (x) => `1.0 / (1.0 + exp(-clamp(${x}, F(-87.0), F(87.0))))`,
    sqrt: (x) => `sqrt(${x})`,
    step: (x) => `select(F(0.0), F(1.0), ${x} > F(0.0))`,
  },
  binary: {
    add: (x, y) => `${x} + ${y}`,
    sub: (x, y) => `${x} - ${y}`,
    mul: (x, y) => `${x} * ${y}`,
    div: (x, y) => `${x} / ${y}`,
    max: (x, y) => `max(${x}, ${y})`,
  },
};

/** JavaScript in double precision. */
export const JAVASCRIPT: Language = {
  declare: "const",
  literal: (value) => `(${value})`,
  unary: {
    neg: (x) => `-${x}`,
    exp: (x) => `Math.exp(${x})`,
    log: (x) => `Math.log(${x})`,
    tanh: (x) => `Math.tanh(${x})`,
    sigmoid: (x) => `1 / (1 + Math.exp(-${x}))`,
    sqrt: (x) => `Math.sqrt(${x})`,
    step: (x) => `(${x} > 0 ? 1 : 0)`,
  },
  binary: { ...WGSL.binary, max: (x, y) => `Math.max(${x}, ${y})` },
};

/** One step of a straight-line program: an operation over earlier steps. */
export type Step =
  | { readonly op: "input"; readonly index: number }
  | { readonly op: "constant"; readonly value: number }
  | { readonly op: Unary; readonly args: readonly [number] }
  | { readonly op: Binary; readonly args: readonly [number, number] };

/** Flattens expressions into steps, each distinct part once. @returns the steps, and which step is each expression's value */
export function straightLine(expressions: readonly Expression[]): { steps: Step[]; results: number[] } {
  const steps: Step[] = [];
  const known = new Map<string, number>();
  const visited = new Map<Expression, number>();
  const visit = (expression: Expression): number => {
    const seen = visited.get(expression);
    if (seen !== undefined) return seen;
    const form = expression.form;
    const step: Step = form.kind === "input"
      ? { op: "input", index: form.index }
      : form.kind === "constant"
      ? { op: "constant", value: form.value }
      : form.kind === "unary"
      ? { op: form.name, args: [visit(form.x)] }
      : { op: form.name, args: [visit(form.x), visit(form.y)] };
    const key = JSON.stringify(step);
    const index = known.get(key) ?? steps.push(step) - 1;
    known.set(key, index);
    visited.set(expression, index);
    return index;
  };
  return { results: expressions.map(visit), steps };
}

/** Writes expressions out: statements that declare the parts, and the name of each expression's value. */
export function emit(
  expressions: readonly Expression[],
  language: Language,
  input: (index: number) => string,
): { statements: string[]; results: string[] } {
  const { steps, results } = straightLine(expressions);
  const name = (index: number) => `t${index}`;
  const write = (step: Step): string => {
    if (step.op === "input") return input(step.index);
    if (step.op === "constant") return language.literal(step.value);
    if (step.args.length === 1) return language.unary[step.op as Unary](name(step.args[0]));
    return language.binary[step.op as Binary](name(step.args[0]), name(step.args[1]));
  };
  return {
    statements: steps.map((step, i) => `${language.declare} ${name(i)} = ${write(step)};`),
    results: results.map(name),
  };
}
