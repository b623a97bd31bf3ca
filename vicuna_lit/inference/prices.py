"""What a model behind an endpoint costs."""

from collections.abc import Callable

from genai_prices import Usage, calc_price

from vicuna_lit.config.evaluate import EndpointConfig


def price_of(endpoint: EndpointConfig) -> Callable[[int, int], float] | None:
    """USD of so many input and output tokens: by the config, else by genai-prices' table; None: neither knows."""
    price = endpoint.price
    if price is not None:
        return lambda inputs, outputs: (inputs * price.input + outputs * price.output) / 1e6

    def of_table(inputs: int, outputs: int) -> float:
        usage = Usage(input_tokens=inputs, output_tokens=outputs)
        return float(calc_price(usage, model_ref=endpoint.model).total_price)

    try:
        of_table(1, 1)
    except LookupError:
        return None
    return of_table
