"""A1 on the models that ship with it: eight chains a question, at a rejection rate of 0.3.

python examples/00_demo.py [COUNT]
"""

import sys
import time

from a1agent import A1, Question
from a1agent.embedded.problems import problems
from a1agent.prompts import ask_for_box

COUNT = int(sys.argv[1]) if len(sys.argv) > 1 else 8
SEED = 2026


def main() -> None:
    right = verifications = rejections = drafted = written = 0
    began = time.perf_counter()
    with A1(rejection_rate=0.3, chains=8, seed=SEED, calibration=None) as a1:
        for number, problem in enumerate(problems(COUNT, SEED)):
            result = a1.solve(ask_for_box(Question.of(problem.question)))
            if number == 0:
                print(f"{problem.question}\n\n{result.reasoning}\n")
            mark = "right" if result.answer == problem.answer else f"wrong, it is {problem.answer}"
            print(f"{problem.question[:60]:60}  {result.answer!s:>7}  {mark}  (confidence {result.confidence:.2f})")
            right += result.answer == problem.answer
            verifications += result.stats.verifications
            rejections += result.stats.rejections
            drafted += result.stats.drafted_tokens
            written += result.stats.target_tokens
    print(
        f"\n{right} of {COUNT} right in {time.perf_counter() - began:.1f} s. The target took over {rejections} of "
        f"{verifications} steps ({rejections / verifications:.2f}, asked for 0.30): "
        f"the draft wrote {drafted} tokens, the target {written}."
    )


if __name__ == "__main__":
    main()
