"""Run by torchrun in test_trainer: each rank writes the temperatures it drew and the state it ended in.

Arguments: model folder, output folder, trainer settings as JSON.
"""

import json
import sys
from pathlib import Path

from datasets import Dataset

from tampo.trainer import TAMPOTrainer
from tests.test_trainer import make_trainer


class Recording(TAMPOTrainer):
    """Keeps what the controller was asked and told."""

    def create_scheduler(self, *args, **kwargs):
        result = super().create_scheduler(*args, **kwargs)
        self.temperatures, self.observations = [], []
        draw, update = self.controller.temperature, self.controller.update

        def temperature(step):
            self.temperatures.append(draw(step))
            return self.temperatures[-1]

        def observe(observation):
            rows = observation.log_likelihoods, observation.advantages, observation.lengths
            self.observations.append([part.tolist() for part in rows])
            update(observation)

        self.controller.temperature, self.controller.update = temperature, observe
        return result


def main(model: str, output: str, settings: str) -> None:
    prompts = Dataset.from_dict({"prompt": [f"{a}+{b}=" for a in range(8) for b in range(8)]})
    trainer = make_trainer(Path(model), prompts, Path(output), Recording, ddp_backend="gloo", **json.loads(settings))
    trainer.train()
    record = {
        "temperatures": trainer.temperatures,
        "observations": trainer.observations,
        "state": trainer.controller.state_dict(),
    }
    Path(output, f"rank{trainer.args.process_index}.json").write_text(json.dumps(record))


if __name__ == "__main__":
    main(*sys.argv[1:])
