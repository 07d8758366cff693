"""A chat model that reasons with two models: invoke, stream, and what the call did."""

from langchain_a1 import ChatA1

chat = ChatA1(chains=8, rejection_rate=0.3)

message = chat.invoke("What is 47 * 28?")
print(message.text)
print("tokens:", message.usage_metadata)
print("answer:", message.response_metadata["answer"], "confidence:", message.response_metadata["confidence"])
print(f"taken over by the target: {message.response_metadata['a1']['observed_rate']:.2f} of the steps")

print("\nreasoning, step by step:")
for chunk in chat.stream("What is 35 * 12?"):
    print(chunk.additional_kwargs.get("reasoning_content", ""), end="", flush=True)
    if chunk.text:
        print(f"\n\nmessage:\n{chunk.text}")
