"""Two GGUF files of yours on this machine, no server: python 06_desktop_llama_cpp.py SMALL.gguf LARGE.gguf

Without arguments the models that ship with a1agent run.
"""

import sys

from langchain_a1 import ChatA1

if len(sys.argv) == 3:
    small, large = sys.argv[1:]
    chat = ChatA1(draft=f"llama-cpp:{small}?n_ctx=8192", target=f"llama-cpp:{large}?n_ctx=8192")
else:
    chat = ChatA1()

for chunk in chat.stream("What is 47 * 28 + 783?", reasoning_effort="low"):
    print(chunk.additional_kwargs.get("reasoning_content", ""), end="", flush=True)
    if chunk.response_metadata:
        stats = chunk.response_metadata["a1"]
        print(f"\n\n{chunk.text}\n")
        print(f"draft {stats['draft_tokens_per_s']:.0f} tokens/s, taken over {stats['observed_rate']:.2f} of the steps")
