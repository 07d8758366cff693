"""LlamaIndex on `a1 serve`: an answer with its statistics, the chains thinking, and a tool call.

The tool needs models whose template knows tools; the pair that ships with a1agent has none.

a1 serve --draft llama-cpp:small.gguf --target llama-cpp:large.gguf
pip install llama-index-llms-openai-like
python examples/43_llama_index.py [URL]
"""

import sys

from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.tools import FunctionTool
from llama_index.llms.openai_like import OpenAILike

URL = sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8000/v1"


def add(a: int, b: int) -> int:
    """Adds two numbers."""
    return a + b


def main() -> None:
    llm = OpenAILike(
        model="a1",
        api_base=URL,
        api_key="none",
        is_chat_model=True,
        is_function_calling_model=True,
        temperature=0.8,  # chains that vote should differ; its default of 0.1 leaves them much the same
        additional_kwargs={"extra_body": {"a1": {"chains": 4}}},
    )
    question = ChatMessage(role="user", content="What is 17 + 25?")
    answer = llm.chat([question])
    stats = answer.raw.model_extra["a1"]
    print(f"{answer.message.content} ({stats['chains_started']} chains, {stats['verifications']} steps verified)")

    thoughts = [part.additional_kwargs.get("thinking_delta", "") for part in llm.stream_chat([question])]
    print(f"{len(''.join(thoughts))} characters of reasoning")

    asked = llm.chat_with_tools([FunctionTool.from_defaults(add)], user_msg="Please add 17 and 25", tool_required=True)
    for call in llm.get_tool_calls_from_response(asked):
        print(f"{call.tool_name}({call.tool_kwargs})")


if __name__ == "__main__":
    main()
