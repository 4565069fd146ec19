// Shows the field for a token while the server asks for one.

const form = document.getElementById("token-form");
const field = document.getElementById("token");
const reason = document.getElementById("token-reason");

export function askForToken(message) {
  reason.textContent = message;
  form.hidden = false;
  field.value = "";
  field.focus();
  return new Promise((resolve) => {
    form.addEventListener(
      "submit",
      (event) => {
        event.preventDefault();
        form.hidden = true;
        document.getElementById("answers").focus();
        resolve(field.value.trim());
      },
      { once: true },
    );
  });
}
