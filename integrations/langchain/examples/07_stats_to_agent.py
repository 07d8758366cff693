"""An agent that asks again with more chains when the statistics say that its question was hard."""

from langchain_core.messages import AIMessage
from langgraph.graph import END, START, MessagesState, StateGraph

from langchain_a1 import ChatA1

EFFORTS = ("low", "medium", "high")
chat = ChatA1(seed=1)


def ask(state: MessagesState) -> dict[str, list[AIMessage]]:
    tried = [m for m in state["messages"] if isinstance(m, AIMessage)]
    question = [m for m in state["messages"] if not isinstance(m, AIMessage)]
    return {"messages": [chat.invoke(question, reasoning_effort=EFFORTS[len(tried)])]}


def is_settled(state: MessagesState) -> bool:
    seen = state["messages"][-1].response_metadata
    chains = seen["a1"]["chains_started"]
    print(f"{chains} chains: {seen['answer']}, confidence {seen['confidence']:.2f}")
    return seen["confidence"] >= 0.6 or chains >= 16


graph = StateGraph(MessagesState)
graph.add_node("ask", ask)
graph.add_edge(START, "ask")
graph.add_conditional_edges("ask", is_settled, {True: END, False: "ask"})

answer = graph.compile().invoke({"messages": [("user", "What is 98 * 67 - 245?")]})["messages"][-1]
print("answer:", answer.response_metadata["answer"])
