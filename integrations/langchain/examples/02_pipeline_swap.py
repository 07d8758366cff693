"""A pipeline does not notice which chat model is in it: prompt | model | parser."""

from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate

from langchain_a1 import ChatA1

prompt = ChatPromptTemplate.from_template("What is {a} * {b}?")
model = ChatA1(model="embedded:target", temperature=0.7)  # was: ChatOpenAI(model="...", temperature=0.7)
pipeline = prompt | model | StrOutputParser()

print(pipeline.invoke({"a": 47, "b": 28}))

answers = pipeline.batch([{"a": n, "b": 12} for n in range(31, 35)])
print(f"{len(answers)} answers; the chains of all questions shared the models' batches")
