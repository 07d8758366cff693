"""Turns of an agent go to A1 by a rule; a split vote is asked of the agent's own model instead.

The agent's own model here is scripted, so that the example runs anywhere; put yours in its place.
"""

from langchain.agents import create_agent
from langchain.agents.middleware import ModelRequest

from langchain_a1 import A1Middleware, ChatA1


def is_arithmetic(request: ModelRequest) -> bool:
    return any(sign in request.messages[-1].text for sign in "+-*/")


own_model = ChatA1(draft="scripted:obedient", target="scripted:obedient")  # for example ChatAnthropic(model="...")
a1 = A1Middleware(ChatA1(chains=8), when=is_arithmetic, budget=3, escalate_below=0.3)
agent = create_agent(own_model, tools=[], middleware=[a1])

for question in ("Good morning!", "What is 47 * 28?"):
    found = agent.invoke({"messages": [("user", question)]})
    print(f"{question}\n{found['messages'][-1].text}\n{found['a1']}\n")
