"""pydantic-ai on `a1 serve`: an agent with a tool of its own. Needs models whose template knows tools.

a1 serve --draft llama-cpp:small.gguf --target llama-cpp:large.gguf
pip install 'pydantic-ai-slim[openai]>=2'
python examples/41_pydantic_ai.py [URL]
"""

import sys

from pydantic_ai import Agent
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider

URL = sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8000/v1"


def add(a: int, b: int) -> int:
    """Adds two numbers."""
    return a + b


def main() -> None:
    model = OpenAIChatModel("a1", provider=OpenAIProvider(base_url=URL, api_key="none"))
    run = Agent(model, tools=[add]).run_sync("Please add 17 and 25")
    print(run.output)
    print(f"{run.usage.requests} requests, {run.usage.output_tokens} tokens written")


if __name__ == "__main__":
    main()
