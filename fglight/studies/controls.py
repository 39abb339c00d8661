"""What any estimator is to be seen beside: backpropagation, local learning, and blocks that are not trained."""

from fglight.studies.study import CONTROLS, Row, Study

ALL_THREE = Row("Local learning, all three", "target=local guess=exact aux=several")

CONTROLLED = Study(
    name="controls",
    title="Controls",
    question="What is an accuracy worth, beside backpropagation, local learning, and blocks that are not trained?",
    rows=(
        *CONTROLS,
        Row("Local learning, MLP", "target=local guess=exact aux=mlp"),
        Row("Local learning, linear", "target=local guess=exact aux=linear"),
    ),
)
