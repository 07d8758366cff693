"""smolagents on `a1 serve`: an agent that calls tools until it has its answer. Needs models whose template knows tools.

a1 serve --draft llama-cpp:small.gguf --target llama-cpp:large.gguf
pip install 'smolagents[openai]'
python examples/42_smolagents.py [URL]
"""

import sys

from smolagents import OpenAIModel, ToolCallingAgent, tool

URL = sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8000/v1"


@tool
def add(a: int, b: int) -> int:
    """Adds two numbers.

    Args:
        a: the first
        b: the second
    """
    return a + b


def main() -> None:
    model = OpenAIModel(model_id="a1", api_base=URL, api_key="none")
    agent = ToolCallingAgent(tools=[add], model=model, max_steps=4)
    print(agent.run("Please add 17 and 25"))


if __name__ == "__main__":
    main()
