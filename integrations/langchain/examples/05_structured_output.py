"""Answers that match a schema: chains that do not validate do not vote, and llama.cpp is held to the schema.

Use models of yours: those that ship were never asked for JSON, and fill it with wrong numbers.
"""

from pydantic import BaseModel, Field

from langchain_a1 import ChatA1


class Product(BaseModel):
    """A product of two numbers."""

    left: int = Field(description="the first number")
    right: int = Field(description="the second number")
    product: int


model = ChatA1(chains=8).with_structured_output(Product, include_raw=True)
found = model.invoke("What is 47 * 28?")
print(found["parsed"])
print("confidence:", found["raw"].response_metadata["confidence"])
