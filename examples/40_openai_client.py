"""The official OpenAI client on `a1 serve`: an answer with its statistics, and a stream that thinks aloud.

a1 serve                                          # in another terminal
python examples/40_openai_client.py [URL]
"""

import sys

from openai import OpenAI

URL = sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8000/v1"
QUESTION = "What is 47 * 28 + 783?\n\nThink step by step and put the final answer in \\boxed{}."


def main() -> None:
    client = OpenAI(base_url=URL, api_key="none")  # a server on this machine alone asks for no key
    answer = client.chat.completions.create(
        model="a1",
        messages=[{"role": "user", "content": QUESTION}],
        extra_body={"a1": {"chains": 8, "rejection_rate": 0.2}},
    )
    stats = answer.model_extra["a1"]
    print(f"answer {answer.choices[0].model_extra['a1']['answer']}, asked rate {stats['asked_rate']}, ", end="")
    print(f"observed {stats['observed_rate']:.2f} over {stats['verifications']} steps")

    stream = client.chat.completions.create(model="a1", messages=[{"role": "user", "content": QUESTION}], stream=True)
    for chunk in stream:
        delta = chunk.choices[0].delta
        print(getattr(delta, "reasoning_content", None) or "", end="", flush=True)
        if delta.content:
            print(f"\n--- the message ---\n{delta.content}")


if __name__ == "__main__":
    main()
