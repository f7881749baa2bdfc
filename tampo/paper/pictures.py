"""What each picture shows, in words: its caption on the pages of a reference, and its text for those who cannot see it.

They say what is drawn, not what comes out, which differs from one reference to the next.
"""

_HEAT_MAP = (
    "a row for each rule, a column for each regime, then the mean and the worst regime. Points below the best fixed "
    "temperature of the regime, which has a frame; blue is a gain, red a loss."
)

# By file name without ending, as notebooks give it to `tampo.paper.figures.write_figure`.
PICTURES = {
    "quickstart": (
        "The meta-policy along a training run: the probability of each candidate temperature, and the temperatures "
        "that were sampled."
    ),
    "algorithm_likelihood": (
        "Log-likelihood per token against temperature, of the rollouts of all prompts with right and wrong ones. A "
        "star marks T*, at which a rollout is likeliest."
    ),
    "algorithm": (
        "Two training runs, of facts and of arithmetic: the probability of each candidate temperature after each step, "
        "and the temperature that was drawn."
    ),
    "fig2": (
        "Log-likelihood per token of eight rollouts of one prompt, right and wrong ones, against temperature. A "
        "star marks T*, at which a rollout is likeliest."
    ),
    "fig3": (
        "Temperatures that TAMPO sampled along training, with their sliding mean; and rewards in training of TAMPO, "
        "three fixed temperatures and a linear schedule, as they are and as they would be at T = 1."
    ),
    "fig4": (
        "Median and quartiles of T* of rollouts of positive and of negative advantage along training, beside the "
        "current sampling temperature, and below the shares of rollouts whose T* is the lowest and the highest "
        "candidate: a column for each of three fixed temperatures."
    ),
    "fig5": (
        "Rewards along training of TAMPO with three weights α of the moving average, a line for each, as they are and "
        "as they would be at T = 1."
    ),
    "fig6": (
        "Rewards along training of TAMPO with four nucleus masses p of the meta-policy, a line for each, as they are "
        "and as they would be at T = 1."
    ),
    "overhead": (
        "Seconds per training step of TRL's GRPOTrainer and of TAMPOTrainer, by part of the step; and seconds for "
        "the likelihoods at K temperatures against the number of tokens and of temperatures."
    ),
    "study_likelihood.weights": (
        "Weights that sparsemax gives to the candidate temperatures, for the sum and the mean of log-probabilities, "
        "at 30, 300 and 3,000 tokens."
    ),
    "study_likelihood.optima": (
        "T* minus the sampling temperature against the length of rollouts, good and bad ones, at three sampling "
        "temperatures; a band shows the standard deviation that theory expects."
    ),
    "study_likelihood.training": (
        "Sampled temperatures and rewards along training, for the sum and the mean of log-probabilities."
    ),
    "study_exploration": (
        "Temperatures that TAMPO sampled along training of a base model that must explore; and the rewards in "
        "training of TAMPO and of fixed temperatures."
    ),
    "study_exploration_optimal": (
        "Median and quartiles of T* of rollouts of positive and of negative advantage along training of a base model "
        "that must explore, and below the shares at the lowest and the highest candidate: a column for each fixed "
        "temperature."
    ),
    "controllers_temperatures": "Sampling temperatures along training: a panel for each controller.",
    "controllers_scores": "Average Pass@1, average Pass@8 and reward in training of each controller, with intervals.",
    "regret": f"Regret in Pass@1, evaluated at T = 1: {_HEAT_MAP}",
    "regret_best": f"Regret in Pass@1, each row at the evaluation temperature that suits it: {_HEAT_MAP}",
    "regret_pass8": f"Regret in Pass@8, evaluated at T = 1: {_HEAT_MAP}",
    "regret_pass64": f"Regret in Pass@64, evaluated at T = 1: {_HEAT_MAP}",
    "regret_curves": (
        "Pass@k against the number of samples k, for the base model, the best fixed temperature and TAMPO: a panel "
        "for each regime."
    ),
    "regret_courses": (
        "Two regimes: above, the temperatures that TAMPO drew along training; below, the rewards of all rows of "
        "Table 1, as they would be at T = 1."
    ),
    "regret_signals": (
        "What each rule's signal says of each temperature, beside what is gained at T = 1 by training there: a row "
        "for each regime, a column for each third of the training."
    ),
    "study_replay": (
        "Facts: TAMPO minus each other row in Pass@1, with intervals; among the rows are replays of TAMPO's "
        "temperatures of another seed."
    ),
    "study_drift": (
        "Sampling temperature and reward at T = 1 along training on a task that changes twice, for TAMPO, two fixed "
        "temperatures and a falling schedule."
    ),
    "study_loss": (
        "Differences in score between T in the loss and T in sampling only, with intervals, for each row and regime."
    ),
    "study_power": (
        "The power of a comparison against the number of training seeds, a line for each number of samples per problem."
    ),
    "study_theory.weights": (
        "The weight of a prompt against its success rate, with and without normalised advantages; and the largest "
        "offset of the mean T* against the length of answers."
    ),
    "study_theory.signal": (
        "TAMPO's mean signal against temperature beside the reward curve: a panel for each length of answers."
    ),
    "study_evaluation": (
        "Average accuracy (avg@8) and Pass@8 of the models of Table 1 against the evaluation temperature, with "
        "intervals."
    ),
}
