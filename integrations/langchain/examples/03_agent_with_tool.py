"""An agent of any other model hands a hard question to A1, and gets the answer with its statistics.

The agent's own model here is scripted, so that the example runs anywhere; put yours in its place.
"""

from langchain.agents import create_agent
from langchain_core.messages import ToolMessage

from langchain_a1 import A1Tool, ChatA1

own_model = ChatA1(draft="scripted:obedient", target="scripted:obedient")  # for example ChatOpenAI(model="...")
agent = create_agent(own_model, tools=[A1Tool(chat=ChatA1(reasoning_effort="high"))])

found = agent.invoke({"messages": [("user", "Use reason on 'What is 47 * 28?' and tell me what it says.")]})
result = next(message for message in found["messages"] if isinstance(message, ToolMessage))
print(found["messages"][-1].text)
print("confidence:", result.artifact["confidence"])
print("steps verified:", result.artifact["stats"]["verifications"])
